//! Publishes a batch, each key in order: a message after the receipt of the one before it, and none behind one that
//! failed.

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream};

/// What came of an item; `None`: it was not tried, behind one that failed.
pub(crate) type Answer<A, E> = Option<Result<A, E>>;

/// Sends the items, each with the digest of its key; that many keys at once. The answers are in the items' order.
pub(crate) async fn in_order<T, A, E, F>(
    items: Vec<(u64, T)>,
    at_once: usize,
    send: impl Fn(T) -> F,
) -> Vec<Answer<A, E>>
where
    F: Future<Output = Result<A, E>>,
{
    let mut answers: Vec<Answer<A, E>> = items.iter().map(|_| None).collect();
    let mut chains: BTreeMap<u64, Vec<(usize, T)>> = BTreeMap::new();
    for (index, (key, item)) in items.into_iter().enumerate() {
        chains.entry(key).or_default().push((index, item));
    }
    let send = &send;
    let sending = chains.into_values().map(|chain| async move {
        let mut answers = Vec::with_capacity(chain.len());
        for (index, item) in chain {
            let answer = send(item).await;
            let has_failed = answer.is_err();
            answers.push((index, answer));
            if has_failed {
                break;
            }
        }
        answers
    });
    let mut done = stream::iter(sending).buffer_unordered(at_once);
    while let Some(chain) = done.next().await {
        chain.into_iter().for_each(|(index, answer)| answers[index] = Some(answer));
    }
    answers
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn keys_go_side_by_side_and_none_passes_a_failed_one() {
        let sent = Mutex::new(Vec::new());
        let items = vec![(1, "a1"), (2, "b1"), (1, "a2-fails"), (1, "a3"), (2, "b2")];
        let answers = in_order(items, 8, |item| {
            sent.lock().unwrap().push(item);
            async move {
                tokio::task::yield_now().await;
                if item.ends_with("fails") { Err(item) } else { Ok(item) }
            }
        });
        let expected = [Some(Ok("a1")), Some(Ok("b1")), Some(Err("a2-fails")), None, Some(Ok("b2"))];
        assert_eq!(answers.await, expected);
        let sent = sent.into_inner().unwrap();
        assert_eq!(sent[..2], ["a1", "b1"], "one does not wait for the other");
        assert!(!sent.contains(&"a3"));
    }
}
