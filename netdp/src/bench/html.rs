//! The report as one HTML file: ratios as charts, then all figures.

use std::fmt::{Display, Write as _};

use anyhow::anyhow;
use plotters::prelude::*;

use super::report::{
    DETAILS, Report, ScenarioResult, detail_rows, growth_header, growth_rows, ratio_rows, short,
};
use super::sizes::GrowthResult;
use crate::load::Verdict;

const WIDTH: u32 = 960;
const HEIGHT: u32 = 300;
/// Told apart also by those who see few colours (Okabe and Ito).
const COLOURS: [RGBColor; 8] = [
    RGBColor(120, 120, 120),
    RGBColor(0, 158, 115),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(0, 114, 178),
    RGBColor(240, 228, 66),
];
/// What is left of them where there are more modes than colours, once more each
/// time.
const DARKER: f64 = 0.5;
const STYLE: &str = "body{font:15px/1.4 system-ui,sans-serif;max-width:62rem;margin:2rem auto;\
    padding:0 1rem;color:#222;background:#fff}table{border-collapse:collapse;margin:.5rem 0}\
    th,td{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #ddd}\
    th:first-child,td:first-child{text-align:left}code{background:#f3f3f3}\
    svg{max-width:100%;height:auto}.key span{display:inline-block;margin-right:1rem}\
    .key i{display:inline-block;width:.8rem;height:.8rem;margin-right:.3rem}.weak{color:#777}";

/// A page that needs nothing but itself.
///
/// # Errors
/// When a chart can't be drawn.
pub(super) fn page(report: &Report) -> anyhow::Result<String> {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <title>netdp bench</title><style>{STYLE}</style></head><body>\n<h1>netdp bench</h1>\n\
         <p><code>{}</code><br>{}</p>\n",
        escaped(&report.machine.command),
        escaped(&report.machine.conditions()),
    );
    let colours = Colours::of(report);
    for scenario in &report.scenarios {
        section(&mut page, scenario, &colours)?;
    }
    for growth in &report.growth {
        growth_section(&mut page, growth, &colours)?;
    }
    for programs in &report.programs {
        let _ = writeln!(page, "<h2>Programs of {}</h2>", escaped(&programs.title));
        for figures in programs.tables() {
            table(&mut page, &figures.header, figures.rows);
        }
        let _ = writeln!(
            page,
            "<p class=\"weak\">{}</p>",
            escaped(&programs.remark())
        );
    }
    if report.compares() {
        page.push_str(
            "<p class=\"weak\">Ratios are to the first mode (by size: to the first size); of the \
         ratios of the rounds the median. \
         Lines on bars: where that would be of more and more rounds, with a confidence of 95 %. \
         Pale bars and brackets: this holds 1, or there are fewer than six rounds, and nothing is \
         claimed.</p>\n",
        );
    }
    for line in report.remarks() {
        let _ = writeln!(page, "<p>{}</p>", escaped(&line));
    }
    page.push_str("</body></html>\n");
    Ok(page)
}

/// A colour for each mode, the same in all sections.
struct Colours<'a>(Vec<&'a str>);

impl<'a> Colours<'a> {
    fn of(report: &'a Report) -> Self {
        let workloads = report
            .scenarios
            .iter()
            .flat_map(|scenario| &scenario.workloads);
        let measured = workloads.flat_map(|workload| &workload.modes);
        let grown = report.growth.iter().flat_map(|growth| &growth.modes);
        let all = measured
            .map(|mode| mode.mode.as_str())
            .chain(grown.map(|mode| mode.mode.as_str()));
        let mut modes: Vec<&str> = Vec::new();
        for mode in all {
            if !modes.contains(&mode) {
                modes.push(mode);
            }
        }
        Self(modes)
    }

    fn colour(&self, mode: &str) -> RGBColor {
        let known = self.0.iter().position(|other| *other == mode);
        let number = known.unwrap_or(self.0.len());
        let RGBColor(red, green, blue) = COLOURS[number % COLOURS.len()];
        let strength = DARKER.powf((number / COLOURS.len()) as f64);
        let [red, green, blue] = [red, green, blue].map(|part| (f64::from(part) * strength) as u8);
        RGBColor(red, green, blue)
    }
}

fn section(
    page: &mut String,
    scenario: &ScenarioResult,
    colours: &Colours<'_>,
) -> anyhow::Result<()> {
    // Writing to a String can't fail.
    let _ = writeln!(page, "<h2>{}</h2>", escaped(&scenario.title));
    let Some(first) = scenario.workloads.first() else {
        return Ok(());
    };
    let modes = first.modes.iter();
    key(
        page,
        modes.map(|mode| (mode.title.as_str(), colours.colour(&mode.mode))),
    );
    page.push_str(
        &bars(scenario, colours).map_err(|error| anyhow!("cannot draw a chart: {error}"))?,
    );
    let names = scenario
        .workloads
        .iter()
        .map(|workload| short(workload.workload));
    table(
        page,
        ["to the first mode"].into_iter().chain(names),
        ratio_rows(scenario),
    );
    page.push_str("<details><summary>All figures</summary>\n");
    table(page, DETAILS, detail_rows(scenario));
    page.push_str("</details>\n");
    Ok(())
}

fn key<'a>(page: &mut String, titles: impl Iterator<Item = (&'a str, RGBColor)>) {
    page.push_str("<p class=\"key\">");
    for (title, RGBColor(red, green, blue)) in titles {
        let _ = write!(
            page,
            "<span><i style=\"background:rgb({red},{green},{blue})\"></i>{}</span>",
            escaped(title)
        );
    }
    page.push_str("</p>\n");
}

fn growth_section(
    page: &mut String,
    growth: &GrowthResult,
    colours: &Colours<'_>,
) -> anyhow::Result<()> {
    let _ = writeln!(page, "<h2>{}</h2>", escaped(&growth.title));
    let modes = growth.modes.iter();
    key(
        page,
        modes.map(|mode| (mode.title.as_str(), colours.colour(&mode.mode))),
    );
    page.push_str(
        &lines(growth, colours).map_err(|error| anyhow!("cannot draw a chart: {error}"))?,
    );
    table(page, growth_header(growth), growth_rows(growth));
    Ok(())
}

/// A line for each mode over the sizes, each the same distance from the next.
fn lines(
    growth: &GrowthResult,
    colours: &Colours<'_>,
) -> Result<String, Box<dyn std::error::Error>> {
    let sizes: Vec<String> = growth_header(growth).split_off(1);
    let names: Vec<&str> = sizes.iter().map(String::as_str).collect();
    let points = growth.modes.iter().map(|mode| {
        let ratios = mode.points.iter().enumerate().filter_map(|(at, point)| {
            let result = point.result.as_ref()?;
            let ratio = match result.against_reference {
                Some(compared) => compared.ratio,
                None => result.series.as_ref().map(|_| 1.0)?,
            };
            ratio.is_finite().then_some((at as f64 + 0.5, ratio))
        });
        ratios.collect::<Vec<(f64, f64)>>()
    });
    let points: Vec<Vec<(f64, f64)>> = points.collect();
    let highest = points
        .iter()
        .flatten()
        .map(|point| point.1)
        .fold(1.1, f64::max);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(44)
            .build_cartesian_2d(0.0..names.len().max(1) as f64, 0.0..highest * 1.05)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(2 * names.len() + 1)
            .x_label_formatter(&|at| name_at(&names, *at))
            .y_label_formatter(&|ratio| format!("{ratio:.1}"))
            .draw()?;
        for (mode, points) in growth.modes.iter().zip(points) {
            let colour = colours.colour(&mode.mode);
            let style = colour.stroke_width(2);
            chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
            chart.draw_series(
                points
                    .into_iter()
                    .map(|point| Circle::new(point, 4, colour.filled())),
            )?;
        }
        area.present()?;
    }
    Ok(svg)
}

fn table<H: Display>(
    page: &mut String,
    header: impl IntoIterator<Item = H>,
    rows: Vec<Vec<String>>,
) {
    page.push_str("<table><tr>");
    for cell in header {
        let _ = write!(page, "<th>{}</th>", escaped(&cell.to_string()));
    }
    page.push_str("</tr>\n");
    for row in rows {
        page.push_str("<tr>");
        for cell in row {
            let _ = write!(page, "<td>{}</td>", escaped(&cell));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// A group of bars for each workload, a bar for each mode but the first, which
/// is the line at 1.
fn bars(
    scenario: &ScenarioResult,
    colours: &Colours<'_>,
) -> Result<String, Box<dyn std::error::Error>> {
    let ratios = scenario
        .workloads
        .iter()
        .flat_map(|workload| &workload.modes);
    let highest = ratios
        .filter_map(|mode| mode.against_reference)
        .map(|compared| compared.interval[1])
        .filter(|top| top.is_finite())
        .fold(1.1, f64::max);
    let groups = scenario.workloads.len();
    let names: Vec<&str> = scenario
        .workloads
        .iter()
        .map(|workload| short(workload.workload))
        .collect();
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(44)
            .build_cartesian_2d(0.0..groups as f64, 0.0..highest * 1.05)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(2 * groups + 1)
            .x_label_formatter(&|at| name_at(&names, *at))
            .y_label_formatter(&|ratio| format!("{ratio:.1}"))
            .draw()?;
        for (group, workload) in scenario.workloads.iter().enumerate() {
            let width = 0.8 / workload.modes.len().saturating_sub(1).max(1) as f64;
            for (row, mode) in workload.modes.iter().enumerate().skip(1) {
                let Some(compared) = mode.against_reference else {
                    continue;
                };
                let left = group as f64 + 0.1 + width * (row - 1) as f64;
                let strength = match compared.verdict {
                    Verdict::WithinSpread => 0.35,
                    _ => 1.0,
                };
                chart.draw_series([Rectangle::new(
                    [(left, 0.0), (left + width * 0.9, compared.ratio)],
                    colours.colour(&mode.mode).mix(strength).filled(),
                )])?;
                {
                    let [low, high] = compared.interval;
                    let middle = left + width * 0.45;
                    chart.draw_series(LineSeries::new([(middle, low), (middle, high)], BLACK))?;
                }
            }
        }
        let first = scenario.workloads.first().and_then(|it| it.modes.first());
        let reference = first.map_or(BLACK, |mode| colours.colour(&mode.mode));
        chart.draw_series(LineSeries::new(
            [(0.0, 1.0), (groups as f64, 1.0)],
            reference,
        ))?;
        area.present()?;
    }
    Ok(svg)
}

/// Names stand in the middle of their groups.
fn name_at(names: &[&str], at: f64) -> String {
    let is_middle = (at.fract() - 0.5).abs() < 1e-6;
    let name = names.get(at.floor() as usize).filter(|_| is_middle);
    name.map_or(String::new(), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::measure::LaneResult;
    use super::super::measure::tests::lane;
    use super::super::report::tests::report;
    use super::super::sizes::GrowthMode;
    use super::super::{Growth, Mode};
    use super::*;
    use crate::load::Kind;

    #[test]
    fn the_page_holds_charts_and_figures_and_needs_nothing_else() {
        let page = page(&report(3)).unwrap();
        assert!(page.contains("<svg") && page.contains("TCP RR"), "{page}");
        assert!(
            page.contains(">0.67<") && page.contains(">(0.99)<") && page.contains(">58123<"),
            "{page}"
        );
        assert!(page.contains("connect: refused"), "{page}");
        let outside = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!outside.contains("http"), "{page}");
    }

    #[test]
    fn each_mode_has_a_colour_of_its_own_in_all_sections() {
        let options = (0..8).map(|number| Mode::Netdp(vec![format!("a={number}")]));
        let modes: Vec<Mode> = Mode::usual().into_iter().chain(options).collect();
        let mut report = report(0);
        report.growth = vec![GrowthResult {
            growth: Growth::Ports,
            title: "by ports".into(),
            workload: Kind::Crr,
            // The other way round, and without those of the scenario.
            modes: modes
                .iter()
                .rev()
                .map(|mode| GrowthMode {
                    mode: mode.to_string(),
                    title: mode.title(),
                    points: Vec::new(),
                })
                .collect(),
        }];
        let lanes = &mut report.scenarios[0].workloads[0].modes;
        lanes.push(LaneResult::new(&lane("nft"), Vec::new(), None));
        let colours = Colours::of(&report);
        let mut seen: Vec<(u8, u8, u8)> = modes
            .iter()
            .map(|mode| colours.colour(&mode.to_string()).rgb())
            .collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), modes.len());

        let page = page(&report).unwrap();
        let (red, green, blue) = colours.colour("nft").rgb();
        let square = format!("rgb({red},{green},{blue})\"></i>");
        for title in ["nft".to_owned(), Mode::Nft.title()] {
            assert!(page.contains(&format!("{square}{title}<")), "{page}");
        }
    }

    #[test]
    fn what_is_markup_is_shown_as_text() {
        let mut report = report(0);
        report.machine.command = "netdp bench <b> & \"c\"".into();
        let page = page(&report).unwrap();
        assert!(page.contains("bench &lt;b&gt; &amp; &quot;c&quot;"));
    }

    #[test]
    fn a_name_stands_in_the_middle_of_its_group() {
        let names = ["a", "b"];
        let shown = [0.0, 0.5, 1.0, 1.5, 2.0].map(|at| name_at(&names, at));
        assert_eq!(shown, ["", "a", "", "b", ""]);
    }
}
