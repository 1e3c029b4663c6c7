//! The Gaussian process against scikit-learn's (`reference/posterior.py` made the numbers).
#![expect(clippy::unwrap_used, reason = "tests")]

use avsweep_search::gp::{Gp, Kernel};
use faer::Mat;

#[derive(serde::Deserialize)]
struct Reference {
    lengths: Vec<f64>,
    nugget: f64,
    points: Vec<Vec<f64>>,
    outputs: Vec<Vec<f64>>,
    asked: Vec<Vec<f64>>,
    means: Vec<Vec<f64>>,
    deviations: Vec<f64>,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("reference/posterior.json")).unwrap()
}

#[test]
fn means_and_deviations_are_scikit_learns() {
    let reference = reference();
    let kernel = Kernel { lengths: reference.lengths, nugget: reference.nugget };
    let outputs = Mat::from_fn(reference.outputs.len(), 4, |row, column| reference.outputs[row][column]);
    let gp = Gp::new(kernel, &reference.points.concat(), &outputs).unwrap();
    let prediction = gp.predict(&reference.asked.concat());
    for (row, (means, deviation)) in reference.means.iter().zip(&reference.deviations).enumerate() {
        for (column, mean) in means.iter().enumerate() {
            let found = prediction.means[(row, column)];
            assert!((found - mean).abs() < 1e-9, "point {row}, output {column}: {found} {mean}");
        }
        let found = prediction.deviations[row];
        assert!((found - deviation).abs() < 1e-7, "point {row}: {found} {deviation}");
    }
}

#[test]
fn a_pending_point_takes_the_variance_away_and_leaves_the_means() {
    let reference = reference();
    let kernel = Kernel { lengths: reference.lengths, nugget: 1e-8 };
    let outputs = Mat::from_fn(reference.outputs.len(), 4, |row, column| reference.outputs[row][column]);
    let points = reference.points.concat();
    let alone = Gp::new(kernel.clone(), &points, &outputs).unwrap();
    let with = Gp::with_pending(kernel, &points, &outputs, &reference.asked[0]).unwrap();
    let (before, after) = (alone.predict(&reference.asked.concat()), with.predict(&reference.asked.concat()));
    assert!(before.deviations[0] > 0.01 && after.deviations[0] < 1e-3);
    for row in 0..reference.asked.len() {
        assert!(after.deviations[row] <= before.deviations[row] + 1e-9);
        for column in 0..4 {
            assert!((before.means[(row, column)] - after.means[(row, column)]).abs() < 1e-9);
        }
    }
}

#[test]
fn points_that_stand_twice_are_refused_and_so_are_outputs_that_do_not_fit() {
    let kernel = Kernel { lengths: vec![1.0], nugget: 0.0 };
    let outputs = Mat::from_fn(2, 1, |row, _| row as f64);
    let doubled = Gp::new(kernel.clone(), &[0.5, 0.5], &outputs).unwrap_err();
    assert!(doubled.to_string().contains("does a point stand twice"), "{doubled}");
    let short = Gp::new(kernel, &[0.5], &outputs).unwrap_err();
    assert_eq!(short.to_string(), "2 outputs do not belong to 1 points");
}
