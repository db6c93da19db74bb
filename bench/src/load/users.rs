//! Who the requests come from: API keys, and how often each user is chosen.

use std::path::Path;

use anyhow::{Context, bail, ensure};

use super::rng::Rng;

/// Most users a run draws from.
pub(super) const USERS_MAX: usize = 1_000_000;

/// The users of a run. The keys of a million users take 80 MB, so they are kept as
/// the file's text and where its lines begin, shared by all threads.
#[derive(Debug, Clone, Default)]
pub(super) struct Users {
    text: String,
    /// Start and end of each key in `text`.
    keys: Vec<(u32, u32)>,
    count: usize,
}

impl Users {
    /// Users without keys, named by their number alone.
    pub(super) fn anonymous(count: usize) -> anyhow::Result<Self> {
        ensure!((1..=USERS_MAX).contains(&count), "--users must be 1 to {USERS_MAX}");
        Ok(Self { text: String::new(), keys: Vec::new(), count })
    }

    /// From keys given one by one.
    pub(super) fn from_keys(keys: &[String]) -> anyhow::Result<Self> {
        Self::from_text(keys.join("\n"))
    }

    /// A key a line; of a line with tabs the last column counts. Empty lines and
    /// those that begin with `#` are left out.
    pub(super) fn from_text(text: String) -> anyhow::Result<Self> {
        ensure!(u32::try_from(text.len()).is_ok(), "the keys take more than 4 GiB");
        let mut keys = Vec::new();
        let mut start = 0;
        for line in text.split('\n') {
            let key = line.rsplit('\t').next().unwrap_or_default().trim();
            if !key.is_empty() && !line.starts_with('#') {
                let offset = key.as_ptr() as usize - line.as_ptr() as usize + start;
                keys.push((u32::try_from(offset)?, u32::try_from(offset + key.len())?));
            }
            start += line.len() + 1;
        }
        ensure!(!keys.is_empty(), "there is no key among the keys given");
        ensure!(keys.len() <= USERS_MAX, "at most {USERS_MAX} keys can be used");
        let count = keys.len();
        Ok(Self { text, keys, count })
    }

    /// Reads a file of keys.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::from_text(text).with_context(|| format!("in {}", path.display()))
    }

    /// Only the first `count` of them.
    pub(super) fn limit(mut self, count: usize) -> anyhow::Result<Self> {
        if count == 0 || count > self.count {
            bail!("--users {count}: there are keys for {}", self.count);
        }
        self.keys.truncate(count);
        self.count = count;
        Ok(self)
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The key of a user, when users have keys.
    pub(super) fn key(&self, user: usize) -> Option<&str> {
        let &(start, end) = self.keys.get(user)?;
        self.text.get(start as usize..end as usize)
    }
}

/// Draws users `0..n` so that the user of rank k (user k - 1) comes with a
/// probability proportional to `1 / k^s`; `s` 0 makes all alike.
///
/// Rejection-inversion (W. Hörmann and G. Derflinger, "Rejection-inversion to
/// generate variates from monotone discrete distributions", 1996): the integral of
/// the density is inverted and the result rounded, and the few draws that the
/// rounding would favour are refused. It takes no table, constant memory, and
/// about 1.1 draws a number whatever `n` is.
#[derive(Debug, Clone)]
pub(super) struct Zipf {
    n: f64,
    s: f64,
    /// Integral up to the left edge of the first rank's part, and to the right of the last.
    low: f64,
    high: f64,
    /// Draws this close below their rank need no further look.
    sure: f64,
}

impl Zipf {
    /// Over `n` users (at least 1) with exponent `s` (0 to 10).
    #[allow(clippy::cast_precision_loss, reason = "at most a million users")]
    pub(super) fn new(n: usize, s: f64) -> anyhow::Result<Self> {
        ensure!((0.0..=10.0).contains(&s), "--zipf must lie between 0 and 10");
        ensure!(n >= 1, "there must be a user to choose");
        let mut zipf = Self { n: n as f64, s, low: 0.0, high: 0.0, sure: 0.0 };
        zipf.low = zipf.integral(1.5) - 1.0;
        zipf.high = zipf.integral(zipf.n + 0.5);
        zipf.sure = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.density(2.0));
        Ok(zipf)
    }

    /// A user's number, from 0 on; user 0 is the most frequent.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 1..=n")]
    pub(super) fn draw(&self, rng: &mut Rng) -> usize {
        loop {
            let u = self.high + rng.unit() * (self.low - self.high);
            let x = self.inverse(u);
            let rank = x.round().clamp(1.0, self.n);
            if rank - x <= self.sure || u >= self.integral(rank + 0.5) - self.density(rank) {
                return rank as usize - 1;
            }
        }
    }

    fn density(&self, x: f64) -> f64 {
        x.powf(-self.s)
    }

    /// An integral of the density: `(x^(1-s) - 1) / (1-s)`, which is `ln x` in the
    /// limit of s = 1; through `exp_m1` it is exact near that limit too.
    fn integral(&self, x: f64) -> f64 {
        let (log, e) = (x.ln(), 1.0 - self.s);
        if (e * log).abs() < 1e-12 { log } else { (e * log).exp_m1() / e }
    }

    fn inverse(&self, y: f64) -> f64 {
        let e = 1.0 - self.s;
        if (e * y).abs() < 1e-12 { y.exp() } else { ((e * y).max(-1.0 + f64::EPSILON).ln_1p() / e).exp() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pearson's chi-square of `draws` against the exact probabilities, each rank
    /// a class of its own.
    fn chi_square(n: usize, s: f64, draws: u32) -> f64 {
        let zipf = Zipf::new(n, s).unwrap();
        let mut rng = Rng::new(42, 0);
        let mut counts = vec![0u32; n];
        for _ in 0..draws {
            counts[zipf.draw(&mut rng)] += 1;
        }
        #[allow(clippy::cast_precision_loss)]
        let weight = |rank: usize| (rank as f64).powf(-s);
        let total: f64 = (1..=n).map(weight).sum();
        (1..=n)
            .map(|rank| {
                let expected = f64::from(draws) * weight(rank) / total;
                (f64::from(counts[rank - 1]) - expected).powi(2) / expected
            })
            .sum()
    }

    #[test]
    fn users_come_as_often_as_zipf_says() {
        // 99.99 % of honest samples stay below these quantiles of the chi-square
        // distribution with 1, 9 and 99 degrees of freedom.
        for s in [0.0, 0.5, 0.99, 1.0, 1.01, 1.5, 3.0] {
            for (n, bound) in [(2, 15.2), (10, 33.8), (100, 161.4)] {
                let found = chi_square(n, s, 200_000);
                assert!(found < bound, "s={s}, n={n}: chi-square {found:.1}, allowed {bound}");
            }
        }
    }

    #[test]
    fn a_million_users_keep_the_head_and_reach_the_tail() {
        let zipf = Zipf::new(1_000_000, 1.0).unwrap();
        let mut rng = Rng::new(1, 0);
        let (mut first, mut second_half) = (0u32, 0u32);
        for _ in 0..200_000 {
            let user = zipf.draw(&mut rng);
            assert!(user < 1_000_000);
            first += u32::from(user == 0);
            second_half += u32::from(user >= 500_000);
        }
        // The harmonic number of a million is 14.3927; of its second half ln 2.
        let share = |count: u32| f64::from(count) / 200_000.0;
        assert!((share(first) - 1.0 / 14.3927).abs() < 0.003, "{first}");
        assert!((share(second_half) - std::f64::consts::LN_2 / 14.3927).abs() < 0.003, "{second_half}");
    }

    #[test]
    fn one_user_is_always_that_one() {
        let zipf = Zipf::new(1, 1.2).unwrap();
        let mut rng = Rng::new(3, 0);
        assert!((0..100).all(|_| zipf.draw(&mut rng) == 0));
        assert!(Zipf::new(5, -1.0).is_err());
        assert!(Zipf::new(0, 1.0).is_err());
    }

    #[test]
    fn keys_are_the_last_column() {
        let users = Users::from_text("# made today\nsk_a\n\nanna\tsk_b\r\nx\ty\tsk_c".into()).unwrap();
        assert_eq!(users.count(), 3);
        assert_eq!(
            (0..4).map(|n| users.key(n)).collect::<Vec<_>>(),
            [Some("sk_a"), Some("sk_b"), Some("sk_c"), None]
        );
        assert!(users.clone().limit(4).is_err());
        assert_eq!(users.limit(2).unwrap().count(), 2);
        assert!(Users::from_text("\n#\n".into()).is_err());
        assert!(Users::anonymous(0).is_err());
    }
}
