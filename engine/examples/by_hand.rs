//! temporary
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let p = |i: usize| std::path::PathBuf::from(&a[i]);
    let t = std::time::Instant::now();
    match a[1].as_str() {
        "extract" => println!(
            "{:?}",
            avsweep_engine::extract(&p(2), &p(3), &p(4), avsweep_engine::DeltaType::Bf16).expect("x")
        ),
        "merge" => avsweep_engine::merge_to_folder(
            &avsweep_engine::MergedModel::weighted(&p(2), &[(p(3), a[4].parse().expect("n"))]),
            &p(5),
        )
        .expect("m"),
        _ => {
            let r = avsweep_engine::inspect(Some(&p(2)), &[p(3), p(4)]).expect("i");
            println!("{:?} {:?} {:?}", r.cosine, r.vectors[0].norm, r.vectors[0].relative_norm);
        }
    }
    println!("{:?}", t.elapsed());
}
