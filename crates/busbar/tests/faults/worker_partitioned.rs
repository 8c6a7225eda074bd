//! Scenarios 15 and 16: a worker and the frontend cannot reach each other, both ways or one way only, and both live.

use crate::crowd::{Crowd, chats};
use crate::proxy::{Link, Way};
use crate::stage::{Frontend, PACED, Stage, Worker, WorkerLinks, in_routing, states};
use std::time::{Duration, Instant};

/// Which bytes do not arrive.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lost {
    Both,
    ToTheFrontend,
    ToTheWorker,
}

struct Scene {
    stage: Stage,
    workers: Vec<(Worker, WorkerLinks)>,
    frontend: Frontend,
    home: Link,
}

impl Scene {
    fn new() -> Self {
        let mut stage = Stage::new();
        let workers = stage.linked_workers(3, PACED, &[]);
        let pids: Vec<u32> = workers.iter().map(|(worker, _)| worker.pid).collect();
        let (frontend, home) = stage.linked_frontend(&pids, &[]);
        stage.serves(&frontend, 3);
        Self { stage, workers, frontend, home }
    }

    /// Cuts one worker off.
    fn part(&self, number: usize, lost: Lost) {
        let hold = |held: bool| if held { Way::Hold } else { Way::Pass };
        let (to_frontend, to_worker) = (hold(lost != Lost::ToTheWorker), hold(lost != Lost::ToTheFrontend));
        let (worker, links) = &self.workers[number];
        // The frontend dials requests and events; the worker dials home.
        links.requests.set(to_worker, to_frontend);
        links.events.iter().for_each(|link| link.set(to_worker, to_frontend));
        self.home.only(&[worker.pid]);
        self.home.set(to_frontend, to_worker);
    }

    fn heal(&self, number: usize) {
        let links = &self.workers[number].1;
        links.requests.heal();
        links.events.iter().for_each(Link::heal);
        self.home.heal();
    }

    fn state(&self, worker: &Worker) -> Option<String> {
        states(&self.frontend)?.remove(&worker.instance)
    }
}

fn check(lost: Lost) {
    let scene = Scene::new();
    let stage = &scene.stage;
    let workers: Vec<Worker> = scene.workers.iter().map(|(worker, _)| worker.clone()).collect();
    let crowd = Crowd::start(&[&scene.frontend], &chats(36));
    crowd.all_have(stage, 5);
    let parted = crowd.busiest(&workers).clone();
    let number = workers.iter().position(|worker| worker.instance == parted.instance).unwrap();
    scene.part(number, lost);
    let at = Instant::now();
    let more = Crowd::start(&[&scene.frontend], &chats(24));
    let why =
        stage.until("the worker to be out of routing", || scene.state(&parted).filter(|state| !in_routing(state)));
    eprintln!("{why}, and out of routing, after {:?}", at.elapsed());
    crowd.finish_whole(stage);
    more.finish_whole(stage);
    eprintln!("all answers were whole after {:?}", at.elapsed());
    // Still parted: what it works on is nobody's, and it finds out by itself.
    stage.until("the parted worker's engine to be free", || (parted.running() == 0.0).then_some(()));
    eprintln!("its engine was free after {:?}", at.elapsed());

    scene.heal(number);
    stage.serves(&scene.frontend, 3);
    eprintln!("all three served again after {:?}", at.elapsed());
    stage.is_used_again(&scene.frontend, &parted);
}

#[test]
fn a_worker_that_is_cut_off_both_ways_costs_no_request_and_frees_its_engine() {
    check(Lost::Both);
}

#[test]
fn so_does_one_that_hears_and_is_not_heard() {
    check(Lost::ToTheFrontend);
}

#[test]
fn so_does_one_that_is_heard_and_does_not_hear() {
    check(Lost::ToTheWorker);
}

#[test]
fn a_slow_network_is_no_fault() {
    let scene = Scene::new();
    // A third of a second each way, for everything between the frontend and its workers.
    let late = Way::Slow(Duration::from_millis(300));
    for (_, links) in &scene.workers {
        links.requests.set(late, late);
        links.events.iter().for_each(|link| link.set(late, late));
    }
    scene.home.set(late, late);
    Crowd::start(&[&scene.frontend], &chats(36)).finish_whole(&scene.stage);
    assert_eq!(scene.frontend.migrations("new_request") + scene.frontend.migrations("ongoing_request"), 0.0);
    assert!(
        scene.workers.iter().all(|(worker, _)| scene.state(worker).is_some_and(|state| in_routing(&state))),
        "a worker was set aside"
    );
}
