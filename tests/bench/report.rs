//! Tables for the manual: medians, and ratios round by round.

use std::path::Path;
use std::process::Command;

use super::load::Figures;

/// Every round of every target, in the order of the first round.
pub struct Table {
    title: String,
    rows: Vec<(&'static str, Vec<Figures>)>,
}

impl Table {
    pub fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            rows: Vec::new(),
        }
    }

    pub fn add(&mut self, target: &'static str, figures: Figures) {
        match self.rows.iter_mut().find(|(name, _)| *name == target) {
            Some((_, rounds)) => rounds.push(figures),
            None => self.rows.push((target, vec![figures])),
        }
    }

    /// Prints the medians and, for `admin`, its throughput relative to each of `others`.
    pub fn print(&self, others: &[&str]) {
        println!("\n{} ({} rounds, medians)\n", self.title, self.rounds());
        println!("| target | requests/s | p50 | p99 |");
        println!("|---|---:|---:|---:|");
        for (name, rounds) in &self.rows {
            let median = |of: fn(&Figures) -> f64| median(rounds.iter().map(of).collect());
            println!(
                "| {name} | {:.0} | {:.0} µs | {:.0} µs |",
                median(|it| it.per_second),
                median(|it| it.p50),
                median(|it| it.p99),
            );
        }
        println!();
        for other in others {
            let ratios: Vec<f64> = self
                .row("admin")
                .iter()
                .zip(self.row(other))
                .map(|(own, other)| own.per_second / other.per_second)
                .collect();
            let (least, most) = ratios
                .iter()
                .fold((f64::MAX, f64::MIN), |(least, most), it| {
                    (least.min(*it), most.max(*it))
                });
            println!(
                "admin / {other}: {:.2} ({least:.2} to {most:.2})",
                median(ratios)
            );
        }
    }

    fn rounds(&self) -> usize {
        self.rows.first().map_or(0, |(_, rounds)| rounds.len())
    }

    fn row(&self, target: &str) -> &[Figures] {
        let row = self.rows.iter().find(|(name, _)| *name == target);
        row.map_or(&[], |(_, rounds)| rounds)
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints where and with what this was measured.
pub fn machine(bao: &Path) {
    let first = |program: &Path, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        let text = output.map(|it| String::from_utf8_lossy(&it.stdout).into_owned());
        let text = text.unwrap_or_default();
        text.lines().next().unwrap_or_default().trim().to_owned()
    };
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("", |text| text.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("machine: {model}, {cores} cores for client, server and plugin together");
    println!("server: {}", first(bao, &["version"]));
    let commit = first(Path::new("git"), &["describe", "--always", "--dirty"]);
    println!("commit: {commit}");
}
