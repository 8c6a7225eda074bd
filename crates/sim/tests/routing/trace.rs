//! A multi-turn trace: conversations that begin with one of a few long system prompts and grow turn by turn.

use std::time::Duration;

/// Its shape; lengths in tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) conversations: usize,
    /// Conversations that run at once.
    pub(crate) clients: usize,
    /// Different system prompts; a conversation takes any.
    pub(crate) groups: u64,
    pub(crate) system_tokens: u64,
    /// A question has between half and one and a half times as many.
    pub(crate) user_tokens: u64,
    pub(crate) reply_tokens: u64,
    /// A conversation has 1 to twice as many less 1.
    pub(crate) turns: u64,
    /// Mean of the exponential pause between answer and next question.
    pub(crate) think: Duration,
    pub(crate) output_tokens: u64,
}

impl Shape {
    /// The trace on which peers were measured: 96 conversations, 24 at once, 8 system prompts of 800 words.
    pub(crate) const MEASURED: Self = Self {
        conversations: 96,
        clients: 24,
        groups: 8,
        system_tokens: 1_000,
        user_tokens: 80,
        reply_tokens: 80,
        turns: 5,
        think: Duration::from_millis(150),
        output_tokens: 8,
    };
}

/// The output function of splitmix64: Steele, Lea and Flood 2014.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Numbers of one conversation, the same on every run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub(crate) fn unit(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// One conversation on its way.
pub(crate) struct Conversation {
    dice: Dice,
    shape: Shape,
    /// What was said so far, the next question at its end.
    pub(crate) prompt: Vec<u32>,
    turns_left: u64,
}

impl Conversation {
    pub(crate) fn new(shape: Shape, seed: u64, number: usize) -> Self {
        let mut dice = Dice::new(mix(seed) ^ number as u64);
        let group = dice.draw() % shape.groups;
        let mut system = Dice::new(mix(seed ^ 0x5eed) ^ group);
        let prompt = (0..shape.system_tokens).map(|_| system.draw() as u32).collect();
        let turns_left = 1 + dice.draw() % (2 * shape.turns - 1);
        let mut conversation = Self { dice, shape, prompt, turns_left };
        conversation.ask();
        conversation
    }

    fn ask(&mut self) {
        let length = self.shape.user_tokens / 2 + self.dice.draw() % self.shape.user_tokens;
        self.say(length);
        self.turns_left -= 1;
    }

    fn say(&mut self, tokens: u64) {
        for _ in 0..tokens {
            let token = self.dice.draw() as u32;
            self.prompt.push(token);
        }
    }

    /// An exponential pause.
    pub(crate) fn pause(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.dice.unit()).ln())
    }

    /// The answer came: the next question and the pause before it, or the end.
    pub(crate) fn answered(&mut self) -> Option<Duration> {
        if self.turns_left == 0 {
            return None;
        }
        // As a client that keeps its own words: the reply is not what the engine made.
        self.say(self.shape.reply_tokens);
        let think = self.pause(self.shape.think);
        self.ask();
        Some(think)
    }
}
