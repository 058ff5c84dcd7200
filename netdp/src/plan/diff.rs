//! The difference of two sorted sequences.

use std::{cmp::Ordering, iter::Peekable};

/// How to get from what is there to what is wanted, for one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change<K, V> {
    Insert { key: K, want: V },
    Update { key: K, have: V, want: V },
    Remove { key: K, have: V },
}

/// What differs between `have` and `want`, both sorted by key without
/// repetition; in the order of the keys.
pub fn diff<K: Ord, V: PartialEq, H, W>(have: H, want: W) -> Diff<H::IntoIter, W::IntoIter>
where
    H: IntoIterator<Item = (K, V)>,
    W: IntoIterator<Item = (K, V)>,
{
    Diff {
        have: have.into_iter().peekable(),
        want: want.into_iter().peekable(),
    }
}

/// Iterator of [`diff`].
pub struct Diff<H: Iterator, W: Iterator> {
    have: Peekable<H>,
    want: Peekable<W>,
}

impl<K: Ord, V: PartialEq, H, W> Iterator for Diff<H, W>
where
    H: Iterator<Item = (K, V)>,
    W: Iterator<Item = (K, V)>,
{
    type Item = Change<K, V>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let order = match (self.have.peek(), self.want.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((have, _)), Some((want, _))) => have.cmp(want),
            };
            match order {
                Ordering::Less => {
                    let (key, have) = self.have.next()?;
                    return Some(Change::Remove { key, have });
                }
                Ordering::Greater => {
                    let (key, want) = self.want.next()?;
                    return Some(Change::Insert { key, want });
                }
                Ordering::Equal => {
                    let ((key, have), (_, want)) = (self.have.next()?, self.want.next()?);
                    if have != want {
                        return Some(Change::Update { key, have, want });
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn changes_lead_from_one_to_the_other(
            have: BTreeMap<u8, bool>,
            want: BTreeMap<u8, bool>,
        ) {
            let mut now = have.clone();
            for change in diff(have.clone(), want.clone()) {
                match change {
                    Change::Insert { key, want } => {
                        prop_assert_eq!(now.insert(key, want), None);
                    }
                    Change::Update { key, have, want } => {
                        prop_assert_ne!(have, want);
                        prop_assert_eq!(now.insert(key, want), Some(have));
                    }
                    Change::Remove { key, have } => {
                        prop_assert_eq!(now.remove(&key), Some(have));
                    }
                }
            }
            prop_assert_eq!(now, want);
        }
    }
}
