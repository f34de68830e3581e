//! Metrics of the service itself, and those of all its programs.

use std::sync::atomic::Ordering;

use super::log::now;
use super::metrics::spec::{Kind, PROGRAM};
use super::metrics::text::{Family, Point};
use super::metrics::value::{Number, Value};
use super::program::{Program, State};
use super::programs::Programs;

/// All there is to see now.
pub fn families(programs: &Programs) -> Vec<Family> {
    let all = programs.all();
    let mut newest = Vec::new();
    for (at, program) in all.iter().enumerate() {
        // A name that is used again stands for who has it now.
        if !all[at + 1..].iter().any(|later| later.name == program.name) {
            newest.push(program.as_ref());
        }
    }
    let states = [
        State::Running,
        State::Paused,
        State::Stopping,
        State::Waiting,
        State::Ended,
    ];
    let count = |state: State| {
        all.iter()
            .filter(|program| program.now().state == state)
            .count()
    };
    let by_state = states.map(|state| {
        let label = ("state".to_owned(), state.name().to_owned());
        point(vec![label], count(state) as u64)
    });
    let gauge = |name: &str, help: &str, points: Vec<Point>| Family {
        name: name.into(),
        help: help.into(),
        kind: Kind::Gauge,
        points,
    };
    let counter = |name: &str, help: &str, of: &dyn Fn(&Program) -> u64| Family {
        kind: Kind::Counter,
        ..gauge(name, help, each(&newest, of))
    };
    let followers = programs.followers.load(Ordering::Relaxed) as u64;
    let dropped = programs.otlp_dropped.load(Ordering::Relaxed);
    let mut families = vec![
        gauge("bpftime_programs", "Programs by state.", by_state.into()),
        gauge(
            "bpftime_followers",
            "Who follows programs.",
            vec![point(Vec::new(), followers)],
        ),
        counter(
            "bpftime_events_total",
            "Events that programs reported as JSON.",
            &|program| program.now().metrics.events,
        ),
        counter(
            "bpftime_lost_records_total",
            "Records that were lost, for a buffer was full.",
            &|program| program.now().lost,
        ),
        counter(
            "bpftime_restarts_total",
            "Starts after the first.",
            &|program| program.now().restarts,
        ),
        counter(
            "bpftime_log_lines_total",
            "Lines that programs printed.",
            &|program| program.now().log.next(),
        ),
        counter(
            "bpftime_log_dropped_lines_total",
            "Lines that are no longer kept.",
            &|program| program.now().log.first(),
        ),
        Family {
            kind: Kind::Counter,
            ..gauge(
                "bpftime_metric_dropped_total",
                "Values left out, for a metric has too many series.",
                refused(&newest),
            )
        },
        Family {
            kind: Kind::Counter,
            ..gauge(
                "bpftime_otlp_dropped_total",
                "Exports given up.",
                vec![point(Vec::new(), dropped)],
            )
        },
    ];
    for program in newest {
        let now = program.now();
        now.metrics
            .collect(&program.name, now.started, now.begun, &mut families);
    }
    families
}

fn point(labels: Vec<(String, String)>, value: u64) -> Point {
    Point {
        labels,
        bounds: Vec::new(),
        value: Value::Number(Number::Whole(value.into())),
        since: now(),
    }
}

fn named(program: &Program) -> (String, String) {
    (PROGRAM.to_owned(), program.name.clone())
}

fn each(programs: &[&Program], of: &dyn Fn(&Program) -> u64) -> Vec<Point> {
    let point = |program: &&Program| {
        let mut point = point(vec![named(program)], of(program));
        point.since = program.now().started;
        point
    };
    programs.iter().map(point).collect()
}

fn refused(programs: &[&Program]) -> Vec<Point> {
    let mut points = Vec::new();
    for program in programs {
        let now = program.now();
        for (metric, count) in now.metrics.refused() {
            let labels = vec![named(program), ("metric".into(), metric.to_owned())];
            points.push(Point {
                since: now.started,
                ..point(labels, count)
            });
        }
    }
    points
}
