//! Where plans that ask nodes meet the answers of their agents.
//!
//! A plan takes a place for each node, the question goes out through the node's session, and the agent answers by a call that
//! says the question's identifier. Meanwhile the agent may ask what the image in question is read with, and only meanwhile.

use std::sync::Arc;

use longshore_model::name::NodeName;
use longshore_model::plan::Look;
use longshore_model::spec::Image;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

pub use super::desk::DeskError;
use super::desk::{Bound, Desk, Taken};

/// Nodes that are asked at once, for all plans together: as many as may ask one registry at the same moment, and some 250 a
/// second where one answers in half a second.
pub const MAX_CHECKS: usize = 128;
/// Plans that one node is asked for at once: it is not to be busy with plans.
pub const MAX_CHECKS_PER_NODE: usize = 2;

/// What a plan leaves for the agent's call.
#[derive(Debug)]
struct Asked {
    image: Image,
    answer: oneshot::Sender<Look>,
}

/// The questions that are open.
#[derive(Debug)]
pub struct CheckDesk {
    places: Arc<Desk<Asked>>,
    /// Plans wait for one of these, the longest first.
    turns: Semaphore,
}

impl Default for CheckDesk {
    fn default() -> Self {
        let all = Bound { most: MAX_CHECKS, what: "nodes are asked for plans" };
        let of_a_node = Bound { most: MAX_CHECKS_PER_NODE, what: "plans ask this node" };
        Self { places: Desk::new(all, of_a_node), turns: Semaphore::new(MAX_CHECKS) }
    }
}

impl CheckDesk {
    /// Waits until one more node may be asked, and takes a place for the answer, under a fresh identifier.
    ///
    /// # Errors
    ///
    /// As many plans ask this node already as may, or the desk is closed.
    pub async fn ask(&self, node: &NodeName, request_id: String, image: Image) -> Result<Question<'_>, DeskError> {
        let turn = self.turns.acquire().await.map_err(|_| DeskError::Closed)?;
        let (sender, answer) = oneshot::channel();
        let place = self.places.take(node, request_id, Asked { image, answer: sender })?;
        Ok(Question { place, answer, _turn: turn })
    }

    /// The image that a node is asked for under this identifier; `None` if it is not.
    #[must_use]
    pub fn image(&self, node: &NodeName, request_id: &str) -> Option<Image> {
        self.places.look(node, request_id, |asked| asked.image.clone())
    }

    /// Brings an agent's answer to whoever waits for it; false if nobody does.
    #[must_use]
    pub fn answer(&self, node: &NodeName, request_id: &str, look: Look) -> bool {
        let asked = self.places.arrive(node, request_id);
        asked.is_some_and(|(asked, _)| asked.answer.send(look).is_ok())
    }

    /// Gives up every question to a node.
    pub fn node_deleted(&self, node: &NodeName) {
        self.places.node_deleted(node);
    }

    /// Whether the server goes away.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.turns.is_closed()
    }

    /// Gives up all questions, and lets nobody ask any more.
    pub fn close(&self) {
        self.turns.close();
        self.places.close();
    }
}

/// A question to a node; dropping it gives it up.
#[derive(Debug)]
pub struct Question<'a> {
    place: Taken<Asked>,
    answer: oneshot::Receiver<Look>,
    /// Given back last.
    _turn: SemaphorePermit<'a>,
}

impl Question<'_> {
    /// The identifier under which the agent shall answer.
    #[must_use]
    pub fn request_id(&self) -> &str {
        self.place.request_id()
    }

    /// The answer.
    ///
    /// # Errors
    ///
    /// [`DeskError::BrokenOff`] when the node was deleted or the server goes away.
    pub async fn answered(mut self) -> Result<Look, DeskError> {
        tokio::select! {
            biased;
            () = self.place.given_up().cancelled() => Err(DeskError::BrokenOff),
            look = &mut self.answer => look.map_err(|_| DeskError::BrokenOff),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use longshore_model::spec::ImageSource;

    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).unwrap()
    }

    fn image() -> Image {
        Image {
            source: ImageSource::Reference("till:1".to_owned()),
            pull_policy: None,
            credential: None,
            keep_for: None,
        }
    }

    #[tokio::test]
    async fn a_question_is_answered_once_by_its_node_and_tells_its_image_until_then() {
        let desk = CheckDesk::default();
        let question = desk.ask(&node("a"), "1".to_owned(), image()).await.unwrap();
        assert_eq!(desk.image(&node("a"), "1"), Some(image()));
        assert_eq!(desk.image(&node("b"), "1"), None);
        assert!(!desk.answer(&node("b"), "1", Look::default()) && !desk.answer(&node("a"), "2", Look::default()));
        let look = Look { obstacles: Vec::new(), fetch_bytes: Some(7) };
        assert!(desk.answer(&node("a"), "1", look.clone()));
        assert!(!desk.answer(&node("a"), "1", Look::default()), "only once");
        assert_eq!(desk.image(&node("a"), "1"), None, "what the image is read with is no longer told");
        assert_eq!(question.answered().await, Ok(look));
        let given_up = desk.ask(&node("a"), "3".to_owned(), image()).await.unwrap();
        drop(given_up);
        assert_eq!(desk.image(&node("a"), "3"), None);
        assert!(!desk.answer(&node("a"), "3", Look::default()), "nobody waits");
    }

    #[tokio::test]
    async fn places_are_limited_and_plans_wait_for_their_turn() {
        let desk = CheckDesk::default();
        let mut held = Vec::new();
        for number in 0..MAX_CHECKS {
            held.push(desk.ask(&node(&format!("n{number}")), number.to_string(), image()).await.unwrap());
        }
        let more = node("more");
        let mut waiting = Box::pin(desk.ask(&more, "more".to_owned(), image()));
        assert!(futures::poll!(&mut waiting).is_pending());
        held.pop();
        let question = waiting.await.unwrap();
        assert_eq!(question.request_id(), "more");
        held.truncate(1);
        let _second = desk.ask(&node("n0"), "second".to_owned(), image()).await.unwrap();
        let full = desk.ask(&node("n0"), "third".to_owned(), image()).await.unwrap_err();
        assert!(matches!(full, DeskError::NodeFull(_)), "{full}");
        desk.node_deleted(&more);
        assert_eq!(question.answered().await, Err(DeskError::BrokenOff));
        desk.close();
        assert_eq!(held.remove(0).answered().await, Err(DeskError::BrokenOff));
        assert_eq!(desk.ask(&node("x"), "x".to_owned(), image()).await.unwrap_err(), DeskError::Closed);
    }
}
