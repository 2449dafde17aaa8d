//! The targets of `fuzz/` as bounded loops: from what each parser reads when all is well, a few thousand mutations of it, the same
//! ones each time.

use crate::support::mutate::{Dice, mutate};
use crate::support::scratch::long;
use lan_backup::fuzzing::TARGETS;
use std::fs;
use std::path::Path;

/// Mutations of each target.
fn rounds() -> usize {
    if long() { 200_000 } else { 4_000 }
}

#[test]
fn no_parser_of_outside_bytes_panics_or_lets_through_what_breaks_a_rule() {
    std::thread::scope(|scope| {
        for target in TARGETS {
            scope.spawn(move || {
                let seeds = (target.seeds)();
                assert!(!seeds.is_empty() && seeds.iter().all(|seed| !seed.is_empty()), "{}", target.name);
                for seed in &seeds {
                    (target.run)(seed);
                }
                let mut dice = Dice::new(target.name.as_bytes());
                // Mutations of mutations go further; now and then it begins anew.
                let mut last = seeds[0].clone();
                for _ in 0..rounds() {
                    if last.is_empty() || last.len() > 1 << 16 || dice.below(8) == 0 {
                        last.clone_from(&seeds[dice.below(seeds.len())]);
                    }
                    last = mutate(&last, &mut dice);
                    let bytes = last.clone();
                    let run = std::panic::catch_unwind(|| (target.run)(&bytes));
                    assert!(run.is_ok(), "{}: {}", target.name, bytes.escape_ascii());
                }
            });
        }
    });
}

#[test]
fn each_target_has_its_file_for_the_fuzzer_and_each_file_its_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut files: Vec<String> = fs::read_dir(folder.join("fuzz_targets"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    files.sort();
    let mut names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    names.sort_unstable();
    assert_eq!(files, names);
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for name in names {
        let file = fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(
            file.contains(&format!("run(\"{name}\"")) && manifest.contains(&format!("name = \"{name}\"")),
            "{name}"
        );
    }
}
