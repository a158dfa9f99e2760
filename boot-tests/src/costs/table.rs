//! The table of costs: an operation to a row, a system to a column, and what is divided by what.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{Costs, Figures, System, rows};

/// A system, what it is compared with, and how many times as much each of its operations may cost.
/// Where the peer is not measured, for its kernel takes minutes to build, nothing on Xen may come
/// to cost more than a switch of processes does.
const LIMITS: [(System, System, f64); 4] = [
    (System::Native, System::Plain, 1.05),
    (System::Xen, System::Peer, 3.0),
    (System::Xen, System::Plain, 16.0),
    (System::L4, System::Peer, 4.0),
];

/// What may cost more on a system. What changes CR4 leads to the wedge on bare hardware as well.
/// What an expiry costs is the difference of two computations, and a tick of the kernel's more in
/// one of them shows. On seL4 a fault with its signal is four messages, and a pipe's pages are
/// mapped anew.
const DEARER: [(System, &str, f64); 4] = [
    (System::Native, "tsc-switch", 2.0),
    (System::Native, "timer-1ms", 1.25),
    (System::L4, "protection-fault", 6.0),
    (System::L4, "pipe-64k", 8.0),
];

/// The figures of several systems, an operation to a row.
#[derive(Clone, Debug, Default)]
pub struct Table {
    columns: Vec<(System, Costs)>,
}

impl Table {
    /// Measures these systems.
    ///
    /// # Errors
    ///
    /// Those of `measure`.
    pub fn measure(systems: &[System], measure: impl Fn(System) -> Result<Costs>) -> Result<Self> {
        let column = |&system: &System| {
            let costs = measure(system).with_context(|| format!("measuring {}", system.name()))?;
            Ok((system, costs))
        };
        Ok(Self { columns: systems.iter().map(column).collect::<Result<_>>()? })
    }

    /// The figures of one system.
    ///
    /// # Errors
    ///
    /// When it was not measured.
    pub fn costs(&self, system: System) -> Result<&Costs> {
        let column = self.columns.iter().find(|(other, _)| *other == system);
        column.map(|(_, costs)| costs).ok_or_else(|| anyhow!("{} was not measured", system.name()))
    }

    /// What an operation costs on one system, as a multiple of what it costs on another.
    ///
    /// # Errors
    ///
    /// When one of the figures is missing.
    #[expect(clippy::cast_precision_loss, reason = "the values are far below 2^52")]
    pub fn ratio(&self, operation: &str, system: System, base: System) -> Result<f64> {
        let [cost, base] = [self.costs(system)?.of(operation)?, self.costs(base)?.of(operation)?];
        ensure!(base > 0, "{operation} costs nothing");
        Ok(cost as f64 / base as f64)
    }

    /// Holds the figures against the limits, where both systems were measured.
    ///
    /// # Errors
    ///
    /// When an operation costs too much.
    pub fn check(&self) -> Result<()> {
        let measured = |system| self.columns.iter().any(|(other, _)| *other == system);
        for (system, base, limit) in LIMITS.into_iter().filter(|(system, base, _)| measured(*system) && measured(*base))
        {
            for (operation, title) in rows() {
                let ratio = self.ratio(operation, system, base)?;
                let dearer = DEARER.iter().find(|(other, name, _)| (*other, *name) == (system, operation));
                let limit = dearer.map_or(limit, |(_, _, dearer)| limit.max(*dearer));
                ensure!(ratio <= limit, "{title}: {} costs {ratio:.3} times what {} does", system.name(), base.name());
            }
        }
        Ok(())
    }

    /// With aligned columns.
    ///
    /// # Errors
    ///
    /// When a figure is missing.
    pub fn text(&self) -> Result<String> {
        let rows = self.rows()?;
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let mut text = String::new();
        for row in &rows {
            write!(text, "{:<1$}", row[0], width(0))?;
            for (column, cell) in row.iter().enumerate().skip(1) {
                write!(text, "  {cell:>0$}", width(column))?;
            }
            text.push('\n');
        }
        Ok(text)
    }

    /// As a table of Markdown.
    ///
    /// # Errors
    ///
    /// When a figure is missing.
    pub fn markdown(&self) -> Result<String> {
        let rows = self.rows()?;
        let mut text = String::new();
        for (index, row) in rows.iter().enumerate() {
            writeln!(text, "| {} |", row.join(" | "))?;
            if index == 0 {
                writeln!(text, "|---|{}", "---:|".repeat(row.len() - 1))?;
            }
        }
        Ok(text)
    }

    /// What was executed before each boot, and how much of a boot is Xen's.
    #[must_use]
    pub fn boots(&self) -> String {
        let line = |(system, Costs { before, boot, .. }): &(System, Costs)| match system {
            System::Plain | System::Native | System::L4 => {
                format!("{}: {} before its first instruction\n", system.name(), before.all)
            }
            System::Peer | System::Xen => {
                let (own, with) = (before.xen, before.xen + boot.all);
                format!(
                    "{}: {own} by Xen before it enters dom0 ({with} with the boot), {} by Xen in the boot\n",
                    system.name(),
                    boot.xen
                )
            }
        };
        self.columns.iter().map(line).collect()
    }

    /// For other readers.
    ///
    /// # Errors
    ///
    /// When a figure is missing.
    #[expect(clippy::cast_precision_loss, reason = "the values are far below 2^52")]
    pub fn figures(&self) -> Result<Figures> {
        const METHOD: [&str; 2] = [
            "QEMU counts the instructions that guest and hypervisor execute (-icount shift=0): two boots of a system \
             show the same, on any machine. A figure is the median of many rounds, less what the measuring takes.",
            "All systems have one source of Linux, one configuration, one initramfs, one processor. Instructions are not \
             time: what waits for memory, and what a real processor's traps take, is not in them.",
        ];
        let mut rows = Vec::new();
        for (operation, title) in super::rows() {
            let costs = self.columns.iter().map(|(_, costs)| costs.of(operation).map(|cost| Some(cost as f64)));
            rows.push((title, costs.collect::<Result<Vec<_>>>()?));
        }
        let place = |system| self.columns.iter().position(|(other, _)| *other == system);
        let places = self.ratios().into_iter().filter_map(|(system, base)| Some((place(system)?, place(base)?)));
        let names: Vec<_> = self.columns.iter().map(|(system, _)| system.name()).collect();
        Ok(Figures {
            unit: "instructions",
            method: METHOD.map(str::to_owned).to_vec(),
            command: format!("scripts/costs {}", names.join(" ")),
            systems: self.columns.iter().map(|(system, _)| (system.name(), system.description())).collect(),
            rows,
            comparisons: places.collect(),
        })
    }

    /// Which systems are divided by which.
    fn ratios(&self) -> Vec<(System, System)> {
        let measured = |system| self.costs(system).is_ok();
        let pairs = [(System::Native, System::Plain), (System::Xen, System::Peer), (System::L4, System::Peer)];
        pairs.into_iter().filter(|&(system, base)| measured(system) && measured(base)).collect()
    }

    fn rows(&self) -> Result<Vec<Vec<String>>> {
        let ratios = self.ratios();
        let names = self.columns.iter().map(|(system, _)| system.name().to_owned());
        let quotients = ratios.iter().map(|(system, base)| format!("{}/{}", system.name(), base.name()));
        let mut rows = vec![["instructions".to_owned()].into_iter().chain(names).chain(quotients).collect::<Vec<_>>()];
        for (operation, title) in super::rows() {
            let mut row = vec![title.to_owned()];
            for (_, costs) in &self.columns {
                row.push(costs.of(operation)?.to_string());
            }
            for &(system, base) in &ratios {
                row.push(format!("{:.3}", self.ratio(operation, system, base)?));
            }
            rows.push(row);
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::costs::Executed;

    fn costs(factor: u64) -> Costs {
        let named = rows().skip(1).zip(1..);
        let operations = named.map(|((name, _), number)| (name.to_owned(), number * factor)).collect();
        let [before, boot] = [7, 1000].map(|all| Executed { all: all * factor, xen: factor });
        Costs { operations, before, boot }
    }

    #[test]
    fn a_table_has_a_column_for_each_ratio_that_can_be_had() {
        let table = Table { columns: vec![(System::Plain, costs(2)), (System::Native, costs(3))] };
        let text = table.text().unwrap();
        let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[0], "instructions plain native native/plain");
        assert!(lines.contains(&"signal delivery 18 27 1.500".to_owned()), "{text}");
        assert!(text.lines().all(|line| line.len() == text.find('\n').unwrap()), "{text}");
        let markdown = table.markdown().unwrap();
        let head = "| instructions | plain | native | native/plain |\n|---|---:|---:|---:|\n| boot to shell | 2000 | 3000 | 1.500 |\n";
        assert!(markdown.starts_with(head), "{markdown}");
        assert!(table.ratio("signal", System::Xen, System::Plain).is_err());
        assert!(table.ratio("nap", System::Native, System::Plain).is_err());
    }

    #[test]
    fn a_missing_figure_is_an_error() {
        let mut costs = costs(1);
        costs.operations.remove("signal");
        assert!(Table { columns: vec![(System::Peer, costs)] }.text().is_err());
    }
}
