//! Gives the binary the folder in which an image has its libraries.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        // On a machine that has no such folder the loader goes on to its own. RPATH and not RUNPATH: it holds for the
        // libraries of libraries too, and no LD_LIBRARY_PATH of a base image puts another C library before it.
        println!("cargo:rustc-link-arg-bins=-Wl,--disable-new-dtags,-rpath,/usr/lib/busbar");
    }
}
