//! Builds an image: `cargo run -p node --example image -- micro DIRECTORY`.
fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let started = std::time::Instant::now();
    let directory = std::path::Path::new(&arguments[2]);
    let mut progress = |text: &str| println!("[{:5.1}] {text}", started.elapsed().as_secs_f64());
    match node::image::build(&arguments[1], directory, &mut progress) {
        Ok(manifest) => println!("{manifest:#?}\n{:?}", started.elapsed()),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}
