//! Goals such as `p95=500ms,handshake.p99=1s,errors=0`: parsed, and held against numbers.
use std::str::FromStr;

use serde_json::{Value, json};

use super::numbers::{Numbers, QUANTILES, STAGES, millis};

/// All must be met.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slo(Vec<Goal>);

#[derive(Clone, Debug, PartialEq)]
enum Goal {
    /// A quantile of a stage is at most so many microseconds. Unmet if nothing was answered.
    Latency { name: String, stage: &'static str, quantile: f64, micros: u64 },
    /// At most so many failed.
    Errors(u64),
}

impl FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(goal).collect::<Result<_, _>>().map(Self)
    }
}

fn goal(text: &str) -> Result<Goal, String> {
    let (name, value) = text.split_once('=').ok_or(format!("{text:?}: NAME=VALUE is wanted"))?;
    if name == "errors" {
        let count = value.parse().map_err(|_| format!("{value:?} is no count"))?;
        return Ok(Goal::Errors(count));
    }
    let (stage, percentile) = name
        .split_once('.')
        .filter(|(stage, _)| STAGES.contains(stage))
        .unwrap_or(("request", name));
    let stage = STAGES.iter().find(|known| **known == stage).copied().unwrap_or("request");
    let (_, quantile) = QUANTILES.iter().find(|(known, _)| *known == percentile).ok_or(format!(
        "{name:?}: errors, p50, p95, p99, p99.9 or max, after connect., handshake., first_byte. \
         or request."
    ))?;
    Ok(Goal::Latency { name: name.to_owned(), stage, quantile: *quantile, micros: micros(value)? })
}

fn micros(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let unit = match &text[split..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return Err(format!("{text:?}: a time ends with us, ms or s")),
    };
    match text[..split].parse::<f64>() {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
        Ok(number) if (0.0..1e9).contains(&number) => Ok((number * unit) as u64),
        _ => Err(format!("{text:?} is no time")),
    }
}

impl Slo {
    /// Each goal with what was measured and whether it was met; and whether all were.
    pub fn judge(&self, numbers: &Numbers) -> (Vec<Value>, bool) {
        let mut all = true;
        let judged = self.0.iter().map(|goal| {
            let (name, limit, measured, met) = match goal {
                Goal::Errors(limit) => {
                    let errors = numbers.errors();
                    ("errors", json!(limit), json!(errors), errors <= *limit)
                }
                Goal::Latency { name, stage, quantile, micros } => {
                    let measured = numbers.quantile(stage, *quantile);
                    let met = measured.is_some_and(|measured| measured <= *micros);
                    let measured = measured.map(millis);
                    (name.as_str(), json!(millis(*micros)), json!(measured), met)
                }
            };
            all &= met;
            json!({ "goal": name, "limit": limit, "measured": measured, "met": met })
        });
        (judged.collect(), all)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::handshake::connection::Failure;

    #[test]
    fn goals_are_read_and_nonsense_is_refused() {
        assert_eq!("errors=3".parse(), Ok(Slo(vec![Goal::Errors(3)])));
        let slo: Slo = "p95=500ms,handshake.p99.9=1.5s".parse().unwrap();
        let wanted = [("request", 0.95, 500_000), ("handshake", 0.999, 1_500_000)];
        for (goal, wanted) in slo.0.iter().zip(wanted) {
            let Goal::Latency { stage, quantile, micros, .. } = goal else { panic!("{goal:?}") };
            assert_eq!((*stage, *quantile, *micros), wanted);
        }
        for text in ["", "p95", "p95=5", "p94=5ms", "errors=-1", "x.p95=5ms", "p95=-5ms"] {
            assert!(text.parse::<Slo>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn no_answer_meets_no_latency_goal_and_errors_are_counted() {
        let mut numbers = Numbers::new(Duration::from_secs(1));
        assert!(!"max=9s".parse::<Slo>().unwrap().judge(&numbers).1);
        assert!("errors=0".parse::<Slo>().unwrap().judge(&numbers).1);
        numbers.failed(Failure::Reset);
        assert!(!"errors=0".parse::<Slo>().unwrap().judge(&numbers).1);
    }
}
