//! Numbers that are there without a configuration, and those of the systems that holdfast replaces.

use super::policy::{Policies, Policy, Window};

/// The numbers of one class; 0 keeps nothing.
struct Numbers {
    class: &'static str,
    hourly: u32,
    daily: u32,
    weekly: u32,
    monthly: u32,
    within_days: u32,
}

const NONE: Numbers = Numbers { class: "", hourly: 0, daily: 0, weekly: 0, monthly: 0, within_days: 0 };
const DEFAULT: &str = "default";

const DEFAULTS: [Numbers; 11] = [
    Numbers { class: DEFAULT, hourly: 48, daily: 30, weekly: 12, monthly: 12, within_days: 7 },
    Numbers { class: "hourly", hourly: 48, within_days: 7, ..NONE },
    Numbers { class: "daily", daily: 30, ..NONE },
    Numbers { class: "weekly", weekly: 12, ..NONE },
    Numbers { class: "monthly", monthly: 12, ..NONE },
    Numbers { class: "manual", within_days: 90, ..NONE },
    Numbers { class: "pre-migration", within_days: 30, ..NONE },
    Numbers { class: "pre-deploy", within_days: 30, ..NONE },
    Numbers { class: "pre-restore", within_days: 14, ..NONE },
    Numbers { class: "safety", within_days: 14, ..NONE },
    Numbers { class: "drill", within_days: 90, ..NONE },
];

/// One of the systems that holdfast replaces. A class that it gives no number for has the default's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Budget Famille.
    Bf,
    /// Journal.
    Jn,
    /// LedgerFlow.
    Lf,
    /// Elegant Tex.
    Et,
    /// AWS Deployment System.
    Ad,
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Bf, Self::Jn, Self::Lf, Self::Et, Self::Ad];

    /// The word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bf => "bf",
            Self::Jn => "jn",
            Self::Lf => "lf",
            Self::Et => "et",
            Self::Ad => "ad",
        }
    }

    fn numbers(self) -> &'static [Numbers] {
        match self {
            Self::Bf => &[
                Numbers { class: DEFAULT, daily: 7, weekly: 4, ..NONE },
                Numbers { class: "daily", daily: 7, ..NONE },
                Numbers { class: "weekly", weekly: 4, ..NONE },
                Numbers { class: "manual", within_days: 90, ..NONE },
                Numbers { class: "pre-migration", within_days: 30, ..NONE },
            ],
            Self::Jn => &[
                Numbers { class: DEFAULT, daily: 7, weekly: 4, monthly: 6, ..NONE },
                Numbers { class: "daily", daily: 7, ..NONE },
                Numbers { class: "weekly", weekly: 4, ..NONE },
                Numbers { class: "monthly", monthly: 6, ..NONE },
            ],
            Self::Lf => &[
                Numbers { class: DEFAULT, daily: 7, within_days: 7, ..NONE },
                Numbers { class: "hourly", within_days: 7, ..NONE },
                Numbers { class: "daily", daily: 7, ..NONE },
            ],
            Self::Et => &[
                Numbers { class: DEFAULT, daily: 30, weekly: 12, monthly: 12, ..NONE },
                Numbers { class: "daily", daily: 30, ..NONE },
                Numbers { class: "weekly", weekly: 12, ..NONE },
                Numbers { class: "monthly", monthly: 12, ..NONE },
                Numbers { class: "drill", within_days: 90, ..NONE },
            ],
            Self::Ad => &[Numbers { class: DEFAULT, daily: 7, ..NONE }, Numbers { class: "daily", daily: 7, ..NONE }],
        }
    }

    /// Its policies.
    pub fn policies(self) -> Policies {
        let mut policies = defaults();
        self.numbers().iter().for_each(|numbers| insert(&mut policies, numbers));
        policies
    }
}

/// What is kept when nothing is configured.
pub fn defaults() -> Policies {
    let mut policies = Policies::default();
    DEFAULTS.iter().for_each(|numbers| insert(&mut policies, numbers));
    policies
}

fn insert(policies: &mut Policies, numbers: &Numbers) {
    let set = |number: u32| (number > 0).then_some(number);
    let policy = Policy {
        keep_hourly: set(numbers.hourly),
        keep_daily: set(numbers.daily),
        keep_weekly: set(numbers.weekly),
        keep_monthly: set(numbers.monthly),
        keep_within: set(numbers.within_days).map(Window::days),
        ..Policy::default()
    };
    if numbers.class == DEFAULT {
        policies.default = policy;
    } else {
        policies.classes.insert(numbers.class.to_owned(), policy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_preset_has_an_empty_policy_and_each_has_its_numbers() {
        for policies in Preset::ALL.into_iter().map(Preset::policies).chain([defaults()]) {
            assert!(!policies.default.is_empty());
            assert_eq!(policies.classes.len(), 10);
            assert!(policies.classes.values().all(|policy| !policy.is_empty()));
        }
        let of = |preset: Preset, class: &str| preset.policies().classes[class].clone();
        assert_eq!(of(Preset::Jn, "monthly").keep_monthly, Some(6));
        assert_eq!(of(Preset::Bf, "weekly").keep_weekly, Some(4));
        assert_eq!(of(Preset::Bf, "manual").keep_within, Some(Window::days(90)));
        let hourly = of(Preset::Lf, "hourly");
        assert_eq!((hourly.keep_hourly, hourly.keep_within), (None, Some(Window::days(7))));
        assert_eq!(of(Preset::Et, "drill").keep_within, Some(Window::days(90)));
        assert_eq!(of(Preset::Ad, "daily").keep_daily, Some(7));
        assert_eq!(defaults().default.keep_hourly, Some(48));
    }
}
