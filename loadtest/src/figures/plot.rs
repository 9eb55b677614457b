//! Latency against load, as an SVG: p50, p95 and p99 of the whole request.
use super::numbers::{Numbers, millis};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 350.0;
const TOP: f64 = 30.0;
const RIGHT: f64 = 560.0;
const LINES: [(&str, f64, &str); 3] =
    [("p50", 0.5, "#2a7f62"), ("p95", 0.95, "#c77d0a"), ("p99", 0.99, "#b3262e")];

/// Draws the steps. `x` is what `load` names ("requests per second offered").
pub fn svg(load: &str, steps: &[(f64, &Numbers)]) -> String {
    let x_max = round_up(steps.iter().map(|(x, _)| *x).fold(1.0, f64::max));
    let value = |n: &Numbers, quantile| n.quantile("request", quantile).map(millis);
    let y_max = round_up(steps.iter().filter_map(|(_, n)| value(n, 0.99)).fold(0.1, f64::max));
    let place =
        |x: f64, y: f64| (LEFT + x / x_max * (RIGHT - LEFT), BOTTOM - y / y_max * (BOTTOM - TOP));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for part in 0..=5 {
        let (x, y) = (x_max * f64::from(part) / 5.0, y_max * f64::from(part) / 5.0);
        let (px, py) = place(x, y);
        svg += &format!(
            "<path d=\"M{LEFT} {py:.1}H{RIGHT}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <text x=\"{px:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
            LEFT - 6.0,
            py + 4.0,
            tick(y),
            BOTTOM + 18.0,
            tick(x)
        );
    }
    svg += &format!(
        "<path d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\" fill=\"none\" stroke=\"black\"/>\n\
         <text x=\"{}\" y=\"385\" text-anchor=\"middle\">{load}</text>\n\
         <text x=\"8\" y=\"18\">whole request, ms</text>\n",
        f64::midpoint(LEFT, RIGHT)
    );
    for (row, (name, quantile, colour)) in LINES.into_iter().enumerate() {
        let points: Vec<_> = steps
            .iter()
            .filter_map(|(x, numbers)| Some(place(*x, value(numbers, quantile)?)))
            .collect();
        let line: String = points.iter().map(|(x, y)| format!("{x:.1},{y:.1} ")).collect();
        svg += &format!(
            "<polyline points=\"{line}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n"
        );
        for (x, y) in points {
            svg += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>\n");
        }
        svg += &format!(
            "<text x=\"580\" y=\"{}\" fill=\"{colour}\">{name}</text>\n",
            50 + 18 * (2 - row)
        );
    }
    svg + "</svg>\n"
}

/// A number beside an axis, without the noise of fractions.
fn tick(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// The next of 1, 2, 5, 10, ...
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    steps.into_iter().map(|step| step * power).find(|round| *round >= value).unwrap_or(value)
}
