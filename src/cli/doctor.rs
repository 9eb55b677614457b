//! `moonshard doctor`: the findings, one line each, and the mend below what needs one.
use std::process::ExitCode;

use super::admin;
use crate::config::Config;
use crate::ops::doctor::{Finding, State, examine};
use crate::ops::style::{COLUMNS, Style, wrap};

/// Columns of a state and of a name, with the gap after them.
const STATE_COLUMNS: usize = 9;
const NAME_COLUMNS: usize = 16;

/// Examines and prints; fails if something needed is missing or broken.
pub fn run(config: &Config, json: bool) -> ExitCode {
    let findings = examine(&config.ports, admin::host_pid(config));
    let able = !findings.iter().any(Finding::prevents_streaming);
    if json {
        println!("{}", serde_json::json!({ "ok": able, "findings": findings }));
    } else {
        print!("{}", text(&findings, Style::stdout()));
    }
    if able { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn text(findings: &[Finding], style: Style) -> String {
    let mut text: String = findings.iter().map(|finding| entry(finding, style)).collect();
    let prevented: Vec<&str> =
        findings.iter().filter(|f| f.prevents_streaming()).map(|f| f.name.as_ref()).collect();
    text += "\n";
    text += &match prevented.is_empty() {
        true => style.good("This machine can stream.\n"),
        false => style.bad(&format!("This machine cannot stream yet: {}.\n", prevented.join(", "))),
    };
    text
}

fn entry(finding: &Finding, style: Style) -> String {
    let (word, paint): (_, fn(Style, &str) -> String) = match (finding.state, finding.needed) {
        (State::Ok, _) => ("ok", Style::good),
        (State::Missing, true) => ("missing", Style::bad),
        (State::Missing, false) => ("missing", Style::warn),
        (State::Broken, true) => ("broken", Style::bad),
        (State::Broken, false) => ("broken", Style::warn),
    };
    let indent = STATE_COLUMNS + NAME_COLUMNS;
    let mut text = String::new();
    let head = paint(style, &format!("{word:<STATE_COLUMNS$}"))
        + &style.bold(&format!("{:<NAME_COLUMNS$}", finding.name));
    for (i, line) in wrap(&finding.detail, COLUMNS - indent).iter().enumerate() {
        let start = if i == 0 { head.clone() } else { " ".repeat(indent) };
        text += &format!("{start}{line}\n");
    }
    if !finding.mend.is_empty() {
        for (i, line) in wrap(&finding.mend, COLUMNS - indent - 3).iter().enumerate() {
            let start = if i == 0 { "-> " } else { "   " };
            text += &format!("{:indent$}{}{line}\n", "", style.dim(start));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_and_the_verdict_names_what_is_needed() {
        let finding = |state, needed| Finding {
            name: "io_uring".into(),
            state,
            needed,
            detail: "word ".repeat(40),
            mend: "mend ".repeat(40),
        };
        let all = [finding(State::Ok, true), finding(State::Missing, false)];
        let good = text(&all, Style::plain());
        assert!(good.ends_with("This machine can stream.\n"));
        let bad = text(&[finding(State::Broken, true)], Style::plain());
        assert!(bad.ends_with("cannot stream yet: io_uring.\n"), "{bad}");
        assert!(good.lines().chain(bad.lines()).all(|line| line.chars().count() <= COLUMNS));
    }
}
