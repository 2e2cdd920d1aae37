//! Charts as inline SVG: drawn here, coloured by the page's style sheet, so that they follow its light and dark.

use std::fmt::Write;

/// Width and height of a chart, in its own units; the page scales it.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
/// Room for the axes.
const LEFT: f64 = 72.0;
const RIGHT: f64 = 32.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 48.0;
/// Height of one bar, and room from one to the next.
const BAR: f64 = 22.0;
const BAR_STEP: f64 = 34.0;
/// Room for the names beside bars.
const BAR_LEFT: f64 = 170.0;

/// A line of a chart.
pub struct Line {
    pub name: String,
    /// A class of the style sheet.
    pub class: String,
    pub points: Vec<Point>,
}

/// A point, in the units of its axes.
pub struct Point {
    pub x: f64,
    pub y: f64,
    /// The slowest and the fastest, if there were several.
    pub range: Option<(f64, f64)>,
    /// Shown when pointed at.
    pub label: String,
}

/// What a chart says of itself.
pub struct Frame<'a> {
    /// Unique on the page.
    pub id: &'a str,
    pub title: &'a str,
    /// What a person who does not see it should know.
    pub description: &'a str,
    pub x_title: &'a str,
    pub y_title: &'a str,
    /// Places on the x axis, with their labels; the axis is linear in them, and begins at the first.
    pub x_ticks: Vec<(f64, String)>,
    /// How values of the y axis are written.
    pub y_label: fn(f64) -> String,
}

/// Text for an element or an attribute.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn begin(svg: &mut String, id: &str, title: &str, description: &str, height: f64) {
    let (title, description) = (escape(title), escape(description));
    let _ = write!(
        svg,
        r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="{id}-title {id}-desc"><title id="{id}-title">{title}</title><desc id="{id}-desc">{description}</desc>"#
    );
}

fn text(svg: &mut String, x: f64, y: f64, class: &str, content: &str) {
    let _ = write!(svg, r#"<text x="{x:.1}" y="{y:.1}" class="{class}">{}</text>"#, escape(content));
}

/// The powers of ten around all values of a logarithmic axis.
fn decades(lines: &[Line]) -> (i32, i32) {
    let values = lines.iter().flat_map(|line| &line.points).flat_map(|point| {
        let (low, high) = point.range.unwrap_or((point.y, point.y));
        [point.y, low, high]
    });
    let positive: Vec<f64> = values.filter(|value| *value > 0.0).collect();
    let low = positive.iter().copied().fold(f64::INFINITY, f64::min);
    let high = positive.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if positive.is_empty() {
        return (0, 1);
    }
    let (low, high) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    (low, high.max(low + 1))
}

/// Lines over a linear x axis and a logarithmic y axis.
pub fn lines(frame: &Frame<'_>, lines: &[Line]) -> String {
    let mut svg = String::new();
    begin(&mut svg, frame.id, frame.title, frame.description, HEIGHT);
    let (low, high) = decades(lines);
    let first = frame.x_ticks.first().map_or(0.0, |tick| tick.0);
    let points = lines.iter().flat_map(|line| &line.points).map(|point| point.x);
    let last = points.fold(frame.x_ticks.last().map_or(1.0, |tick| tick.0), f64::max);
    let x = |value: f64| LEFT + (value - first) / (last - first).max(f64::MIN_POSITIVE) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| {
        let part = (value.max(f64::MIN_POSITIVE).log10() - f64::from(low)) / f64::from(high - low);
        HEIGHT - BOTTOM - part.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    };
    for decade in low..=high {
        let value = 10f64.powi(decade);
        let at = y(value);
        let _ = write!(svg, r#"<line x1="{LEFT}" x2="{:.1}" y1="{at:.1}" y2="{at:.1}" class="grid"/>"#, WIDTH - RIGHT);
        text(&mut svg, LEFT - 8.0, at + 4.0, "tick end", &(frame.y_label)(value));
    }
    for (value, label) in &frame.x_ticks {
        let at = x(*value);
        let _ = write!(svg, r#"<line x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{:.1}" class="grid"/>"#, HEIGHT - BOTTOM);
        text(&mut svg, at, HEIGHT - BOTTOM + 18.0, "tick middle", label);
    }
    text(&mut svg, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 8.0, "axis middle", frame.x_title);
    let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
    let _ = write!(
        svg,
        r#"<text x="14" y="{middle:.1}" class="axis middle" transform="rotate(-90 14 {middle:.1})">{}</text>"#,
        escape(frame.y_title)
    );
    for line in lines {
        draw(&mut svg, line, &x, &y);
    }
    svg.push_str("</svg>");
    svg
}

fn draw(svg: &mut String, line: &Line, x: &impl Fn(f64) -> f64, y: &impl Fn(f64) -> f64) {
    let path: Vec<String> = line.points.iter().map(|point| format!("{:.1},{:.1}", x(point.x), y(point.y))).collect();
    let _ = write!(svg, r#"<g class="{}"><polyline points="{}"/>"#, line.class, path.join(" "));
    for point in &line.points {
        let (px, py) = (x(point.x), y(point.y));
        if let Some((low, high)) = point.range {
            let _ = write!(svg, r#"<line class="range" x1="{px:.1}" x2="{px:.1}" y1="{:.1}" y2="{:.1}"/>"#, y(low), y(high));
        }
        let _ = write!(svg, r#"<circle cx="{px:.1}" cy="{py:.1}" r="3.5"><title>{}</title></circle>"#, escape(&point.label));
    }
    svg.push_str("</g>");
}

/// A bar made of parts.
pub struct Bar {
    pub name: String,
    /// Class, value and what is shown when pointed at.
    pub parts: Vec<(String, f64, String)>,
    /// Behind the bar.
    pub total: String,
}

/// Bars from the left, on one linear scale.
pub fn bars(id: &str, title: &str, description: &str, bars: &[Bar]) -> String {
    let mut svg = String::new();
    begin(&mut svg, id, title, description, bars.len() as f64 * BAR_STEP + 8.0);
    let total = |bar: &Bar| bar.parts.iter().map(|part| part.1).sum::<f64>();
    let longest = bars.iter().map(total).fold(f64::MIN_POSITIVE, f64::max);
    // Room for the figure behind the longest bar.
    let scale = (WIDTH - BAR_LEFT - 80.0) / longest;
    for (index, bar) in bars.iter().enumerate() {
        let top = index as f64 * BAR_STEP + 4.0;
        text(&mut svg, BAR_LEFT - 10.0, top + BAR * 0.7, "tick end", &bar.name);
        let mut left = BAR_LEFT;
        for (class, value, label) in &bar.parts {
            let width = value * scale;
            let _ = write!(
                svg,
                r#"<rect class="{class}" x="{left:.1}" y="{top:.1}" width="{width:.1}" height="{BAR}"><title>{}</title></rect>"#,
                escape(label)
            );
            left += width;
        }
        text(&mut svg, left + 8.0, top + BAR * 0.7, "tick", &bar.total);
    }
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(ys: &[f64]) -> Line {
        let points = ys.iter().enumerate().map(|(x, y)| Point { x: x as f64, y: *y, range: None, label: "a < b".into() });
        Line { name: "one".into(), class: "one".into(), points: points.collect() }
    }

    fn frame() -> Frame<'static> {
        let x_ticks = vec![(0.0, "0".to_owned()), (2.0, "2".to_owned())];
        Frame { id: "c", title: "A & B", description: "d", x_title: "x", y_title: "y", x_ticks, y_label: |value| format!("{value}") }
    }

    #[test]
    fn a_chart_is_titled_escaped_and_stays_inside() {
        let svg = lines(&frame(), &[line(&[1.0, 10.0, 1000.0])]);
        assert!(svg.contains(r#"<title id="c-title">A &amp; B</title>"#) && svg.contains("a &lt; b"), "{svg}");
        assert!(svg.contains(&format!(r#"points="{LEFT:.1},{:.1} "#, HEIGHT - BOTTOM)), "the smallest is at the bottom: {svg}");
        assert!(svg.contains(&format!(r#"{:.1},{TOP:.1}""#, WIDTH - RIGHT)), "the largest is at the top: {svg}");
    }

    #[test]
    fn a_chart_of_nothing_is_drawn() {
        for lines_of in [vec![], vec![line(&[])], vec![line(&[0.0])]] {
            let svg = lines(&frame(), &lines_of);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        assert!(!bars("b", "t", "d", &[Bar { name: "x".into(), parts: Vec::new(), total: String::new() }]).contains("NaN"));
    }
}
