//! PromQL as far as dashboard and alerts use it: parsed, its types checked, and what it names listed.
//! Stricter than Prometheus: an unknown function is an error, and every aggregation stands alone.
use std::collections::BTreeSet;

/// What a query names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Query {
    pub selectors: Vec<Selector>,
    /// Labels by which it groups or matches.
    pub labels: BTreeSet<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Selector {
    pub metric: String,
    /// Label, operator, value.
    pub matchers: Vec<(String, String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Scalar,
    Vector,
    Range,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Number(f64),
    Duration,
    Text(String),
    Word(String),
    Sign(&'static str),
}

const SIGNS: [&str; 21] = [
    "==", "!=", "=~", "!~", ">=", "<=", ">", "<", "=", "(", ")", "{", "}", "[", "]", ",", "+", "-",
    "*", "/", "^",
];
const AGGREGATIONS: [&str; 5] = ["sum", "max", "min", "avg", "count"];
/// Name, what it takes, what it gives.
const FUNCTIONS: [(&str, &[Kind], Kind); 9] = [
    ("rate", &[Kind::Range], Kind::Vector),
    ("increase", &[Kind::Range], Kind::Vector),
    ("delta", &[Kind::Range], Kind::Vector),
    ("max_over_time", &[Kind::Range], Kind::Vector),
    ("absent", &[Kind::Vector], Kind::Vector),
    ("histogram_quantile", &[Kind::Scalar, Kind::Vector], Kind::Vector),
    ("time", &[], Kind::Scalar),
    ("clamp_min", &[Kind::Vector, Kind::Scalar], Kind::Vector),
    ("abs", &[Kind::Vector], Kind::Vector),
];

/// Reads a query that must be a vector, as alerts and panels need it.
pub fn parse(text: &str) -> Result<Query, String> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, query: Query::default() };
    let kind = parser.binary(1)?;
    match (parser.peek(), kind) {
        (None, Kind::Vector) => Ok(parser.query),
        (None, kind) => Err(format!("{kind:?} where a vector is needed")),
        (Some(token), _) => Err(format!("{token:?} after the end")),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = |is: fn(char) -> bool| rest.find(|c| !is(c)).unwrap_or(rest.len());
        let taken = if first == '"' {
            let end = rest[1..].find('"').ok_or("a text without an end")? + 1;
            if rest[1..end].contains('\\') {
                return Err("escapes are not read here".into());
            }
            found.push(Token::Text(rest[1..end].to_owned()));
            end + 1
        } else if first.is_ascii_digit() {
            let end = length(|c| c.is_ascii_alphanumeric() || c == '.');
            found.push(number(&rest[..end])?);
            end
        } else if first.is_ascii_alphabetic() || first == '_' {
            let end = length(|c| c.is_ascii_alphanumeric() || c == '_');
            found.push(Token::Word(rest[..end].to_owned()));
            end
        } else {
            let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
            let sign = *sign.ok_or_else(|| format!("{first:?} is no part of a query"))?;
            found.push(Token::Sign(sign));
            sign.len()
        };
        rest = rest[taken..].trim_start();
    }
    Ok(found)
}

fn number(text: &str) -> Result<Token, String> {
    if let Ok(number) = text.parse() {
        return Ok(Token::Number(number));
    }
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    match ["ms", "s", "m", "h", "d", "w", "y"].contains(&unit) {
        true => Ok(Token::Duration),
        false => Err(format!("{text} is neither a number nor a time")),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    query: Query,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Result<Token, String> {
        self.at += 1;
        self.tokens.get(self.at - 1).cloned().ok_or_else(|| "it ends too early".into())
    }

    fn takes(&mut self, token: &Token) -> bool {
        let is = self.peek() == Some(token);
        self.at += usize::from(is);
        is
    }

    fn sign(&mut self, sign: &'static str) -> Result<(), String> {
        match self.next()? {
            Token::Sign(found) if found == sign => Ok(()),
            other => Err(format!("{other:?} where {sign} is needed")),
        }
    }

    /// A binary expression of operators that bind at least so strongly.
    fn binary(&mut self, least: u8) -> Result<Kind, String> {
        let mut left = self.unary()?;
        loop {
            let operator = match self.peek() {
                Some(Token::Sign(sign)) => (*sign).to_owned(),
                Some(Token::Word(word)) => word.clone(),
                _ => return Ok(left),
            };
            let strength = match operator.as_str() {
                "or" => 1,
                "and" | "unless" => 2,
                "==" | "!=" | ">" | "<" | ">=" | "<=" => 3,
                "+" | "-" => 4,
                "*" | "/" => 5,
                _ => return Ok(left),
            };
            if strength < least {
                return Ok(left);
            }
            self.at += 1;
            if self.takes(&Token::Word("on".into())) || self.takes(&Token::Word("ignoring".into()))
            {
                self.label_list()?;
            }
            let right = self.binary(strength + 1)?;
            left = match (left, right, strength) {
                (Kind::Range, ..) | (_, Kind::Range, _) => {
                    return Err(format!("{operator} of a range"));
                }
                (Kind::Vector, Kind::Vector, _) => Kind::Vector,
                (_, _, 1 | 2) => return Err(format!("{operator} of a number")),
                (Kind::Scalar, Kind::Scalar, _) => Kind::Scalar,
                _ => Kind::Vector,
            };
        }
    }

    fn unary(&mut self) -> Result<Kind, String> {
        match self.next()? {
            Token::Sign("-") => self.unary(),
            Token::Number(_) => Ok(Kind::Scalar),
            Token::Sign("(") => {
                let kind = self.binary(1)?;
                self.sign(")")?;
                Ok(kind)
            }
            Token::Word(word) if AGGREGATIONS.contains(&word.as_str()) => self.aggregation(),
            Token::Word(word) if self.takes(&Token::Sign("(")) => self.call(&word),
            Token::Word(word) => self.selector(word),
            other => Err(format!("{other:?} where a value is needed")),
        }
    }

    fn aggregation(&mut self) -> Result<Kind, String> {
        if self.takes(&Token::Word("by".into())) || self.takes(&Token::Word("without".into())) {
            self.label_list()?;
        }
        self.sign("(")?;
        let kind = self.binary(1)?;
        self.sign(")")?;
        match kind {
            Kind::Vector => Ok(kind),
            other => Err(format!("an aggregation of a {other:?}")),
        }
    }

    fn call(&mut self, name: &str) -> Result<Kind, String> {
        let known = FUNCTIONS.iter().find(|(known, ..)| *known == name);
        let (_, takes, gives) = known.ok_or_else(|| format!("there is no function {name}"))?;
        for (n, wanted) in takes.iter().enumerate() {
            if n > 0 {
                self.sign(",")?;
            }
            let kind = self.binary(1)?;
            if kind != *wanted {
                return Err(format!("{name} takes a {wanted:?}, not a {kind:?}"));
            }
        }
        self.sign(")")?;
        Ok(*gives)
    }

    fn selector(&mut self, metric: String) -> Result<Kind, String> {
        let mut matchers = Vec::new();
        if self.takes(&Token::Sign("{")) {
            while !self.takes(&Token::Sign("}")) {
                match (self.next()?, self.next()?, self.next()?) {
                    (Token::Word(label), Token::Sign(how), Token::Text(value))
                        if ["=", "!=", "=~", "!~"].contains(&how) =>
                    {
                        matchers.push((label, how.to_owned(), value));
                    }
                    other => return Err(format!("{other:?} is no matcher")),
                }
                if !self.takes(&Token::Sign(",")) && self.peek() != Some(&Token::Sign("}")) {
                    return Err("a comma is missing between matchers".into());
                }
            }
        }
        self.query.selectors.push(Selector { metric, matchers });
        if !self.takes(&Token::Sign("[")) {
            return Ok(Kind::Vector);
        }
        match self.next()? {
            Token::Duration => self.sign("]").map(|()| Kind::Range),
            other => Err(format!("{other:?} is no time")),
        }
    }

    fn label_list(&mut self) -> Result<(), String> {
        self.sign("(")?;
        while !self.takes(&Token::Sign(")")) {
            match self.next()? {
                Token::Word(label) => self.query.labels.insert(label),
                other => return Err(format!("{other:?} is no label")),
            };
            if !self.takes(&Token::Sign(",")) && self.peek() != Some(&Token::Sign(")")) {
                return Err("a comma is missing between labels".into());
            }
        }
        Ok(())
    }
}

/// What is wrong with queries, given the families and samples of an answer to `/metrics`: names that
/// it has not declared, labels and label values that no sample of such a family has. Families without
/// a sample are unknown at the moment, and so are their labels.
pub fn faults(query: &str, exposed: &Exposed) -> Vec<String> {
    let parsed = match parse(query) {
        Ok(parsed) => parsed,
        Err(error) => return vec![format!("{query}: {error}")],
    };
    let mut faults = Vec::new();
    let mut all_labels = BTreeSet::new();
    let mut all_known = true;
    for selector in &parsed.selectors {
        let metric = &selector.metric;
        if !exposed.names.contains(metric) {
            faults.push(format!("{query}: there is no {metric}"));
            continue;
        }
        let labels = exposed.labels(metric);
        if labels.is_empty() && !exposed.has_sample(metric) {
            all_known = false;
            continue;
        }
        for (label, how, value) in &selector.matchers {
            let has = exposed.samples.iter().any(|(name, pairs)| {
                name == metric
                    && pairs.iter().any(|(l, v)| l == label && (v == value || how != "="))
            });
            if !has {
                faults.push(format!("{query}: no sample of {metric} has {label}{how}\"{value}\""));
            }
        }
        all_labels.extend(labels);
    }
    for label in parsed.labels.iter().filter(|label| all_known && !all_labels.contains(*label)) {
        faults.push(format!("{query}: nothing here has a label {label}"));
    }
    faults
}

/// What `/metrics` has told.
#[derive(Debug, Default)]
pub struct Exposed {
    /// As queries may use them: with the suffixes of their types.
    pub names: BTreeSet<String>,
    pub samples: Vec<(String, Vec<(String, String)>)>,
}

impl Exposed {
    fn labels(&self, metric: &str) -> BTreeSet<String> {
        let of_metric = self.samples.iter().filter(|(name, _)| name == metric);
        of_metric.flat_map(|(_, pairs)| pairs.iter().map(|(label, _)| label.clone())).collect()
    }

    pub fn has_sample(&self, metric: &str) -> bool {
        self.samples.iter().any(|(name, _)| name == metric)
    }

    /// Reads OpenMetrics text, strictly; panics with the line that is wrong.
    pub fn read(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("ends with EOF");
        let (mut exposed, mut family, mut kind) = (Self::default(), String::new(), String::new());
        let mut types = BTreeSet::new();
        let mut seen = BTreeSet::new();
        for line in body.lines() {
            if let Some(rest) = line.strip_prefix("# ") {
                let mut words = rest.splitn(3, ' ');
                let (word, name, what) = (words.next(), words.next(), words.next());
                assert!(matches!(word, Some("HELP" | "TYPE" | "UNIT")), "{line}");
                if word == Some("TYPE") {
                    (family, kind) = (name.unwrap().to_owned(), what.unwrap().to_owned());
                    assert!(types.insert(family.clone()), "declared twice: {line}");
                    exposed.names.extend(suffixes(&kind).iter().map(|s| format!("{family}{s}")));
                }
                continue;
            }
            let (key, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
            assert!(seen.insert(key.to_owned()), "told twice: {line}");
            let (name, labels) = key.split_once('{').unwrap_or((key, "}"));
            let fits = suffixes(&kind).iter().any(|suffix| name == format!("{family}{suffix}"));
            assert!(fits, "{line} in {family}");
            exposed.samples.push((name.to_owned(), pairs(labels)));
        }
        exposed
    }
}

fn suffixes(kind: &str) -> &'static [&'static str] {
    match kind {
        "counter" => &["_total"],
        "histogram" => &["_bucket", "_sum", "_count"],
        "gauge" => &[""],
        other => panic!("a family of type {other}"),
    }
}

/// The labels of a sample, from behind the opening brace.
fn pairs(mut text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    while text != "}" {
        let (label, rest) = text.split_once("=\"").unwrap_or_else(|| panic!("{text}"));
        let mut value = String::new();
        let mut letters = rest.char_indices();
        let end = loop {
            match letters.next().unwrap_or_else(|| panic!("{text}")) {
                (at, '"') => break at,
                (_, '\\') => value.push(letters.next().unwrap().1),
                (_, letter) => value.push(letter),
            }
        };
        pairs.push((label.to_owned(), value));
        text = &rest[end + 1..];
        text = text.strip_prefix(',').unwrap_or(text);
    }
    pairs
}

/// Every query of the dashboard and the alerts, with where it stands.
pub fn queries(docs: &std::path::Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(docs.join("grafana.json")).unwrap();
    let board: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut all = Vec::new();
    for panel in board["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        let targets = panel["targets"].as_array();
        assert_eq!(targets.is_none(), panel["type"] == "row", "{title}");
        for target in targets.into_iter().flatten() {
            all.push((title.to_owned(), target["expr"].as_str().unwrap().to_owned()));
        }
    }
    all.extend(alerts(&std::fs::read_to_string(docs.join("alerts.yml")).unwrap()));
    all
}

/// The alerts of a rules file that is written as ours is: one key a line.
fn alerts(text: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    let (mut severities, mut summaries) = (0, 0);
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let line = line.trim_start();
        let (key, value) = line.trim_start_matches("- ").split_once(':').unwrap();
        let value = value.trim();
        match key {
            "alert" => {
                assert!(all.iter().all(|(name, _)| name != value), "{value} twice");
                all.push((value.to_owned(), String::new()));
            }
            "expr" => {
                let expr = &mut all.last_mut().unwrap().1;
                assert!(expr.is_empty(), "{line}");
                value.clone_into(expr);
            }
            "for" => assert_eq!(number(value), Ok(Token::Duration), "{line}"),
            "severity" => {
                assert!(["critical", "warning"].contains(&value), "{line}");
                severities += 1;
            }
            "summary" => {
                assert!(!value.is_empty() && !value.contains(": "), "{line}");
                summaries += 1;
            }
            "groups" | "rules" | "labels" | "annotations" => assert_eq!(value, "", "{line}"),
            "name" => {}
            _ => panic!("{line}"),
        }
    }
    assert!(all.len() >= 10 && all.iter().all(|(_, expr)| !expr.is_empty()));
    assert_eq!((severities, summaries), (all.len(), all.len()));
    all
}
