//! Writes about enrolment: tokens, machines that wait for approval, and how both become nodes.

use jiff::Timestamp;
use longshore_model::admission::{ADMISSION_LIFE, MAX_PENDING, PendingNode};
use longshore_model::limits::MAX_TOKENS;
use longshore_model::name::NodeName;
use longshore_model::node::{Labels, Node};
use rusqlite::{OptionalExtension, params};

use super::batch::Batch;
use super::rows;
use crate::store::{Change, Enrolled, Enrolling, StoreError, StoredToken, Terms};

/// What has become of a machine that asked for approval; kept by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waits = 0,
    Approved = 1,
    Denied = 2,
}

/// A machine that asked for approval.
struct Admission {
    machine: PendingNode,
    secret_hash: [u8; 32],
    for_name: bool,
    state: State,
}

impl Admission {
    /// Whether this is the machine that asks again, with the token that it had.
    fn is_of(&self, request: &Enrolling) -> bool {
        self.machine.key == request.key
            && self.machine.token == request.token_id
            && equal_hashes(&self.secret_hash, &request.secret_hash)
    }
}

/// Compares hashes in a time that does not depend on where they differ.
fn equal_hashes(one: &[u8; 32], other: &[u8; 32]) -> bool {
    let difference = one.iter().zip(other).fold(0, |difference, (a, b)| difference | (a ^ b));
    std::hint::black_box(difference) == 0
}

fn admission(row: &rusqlite::Row<'_>) -> rusqlite::Result<Admission> {
    let state = match row.get(9)? {
        0 => State::Waits,
        1 => State::Approved,
        2 => State::Denied,
        other => return Err(rusqlite::Error::IntegralValueOutOfRange(9, other)),
    };
    Ok(Admission { machine: rows::pending(row)?, secret_hash: row.get(7)?, for_name: row.get(8)?, state })
}

fn no_pending(name: &NodeName) -> StoreError {
    StoreError::NotFound { kind: "pending node", name: name.to_string() }
}

impl Batch<'_> {
    /// Keeps a token. Whoever asks for it again is told which it was: the token itself is not kept.
    pub(super) fn create_token(&mut self, token: &StoredToken, terms: &Terms) -> Result<(), StoreError> {
        let made = self.once(terms, token.create_time, |batch| {
            batch.insert_token(token)?;
            Ok(token.id.clone())
        })?;
        if made == token.id { Ok(()) } else { Err(StoreError::TokenShown(made)) }
    }

    fn insert_token(&mut self, token: &StoredToken) -> Result<(), StoreError> {
        if self.sql.prepare_cached("SELECT 1 FROM token WHERE id = ?1")?.exists([&token.id])? {
            return Err(StoreError::AlreadyExists { kind: "enrolment token", name: token.id.clone() });
        }
        let count: u32 = self.sql.prepare_cached("SELECT count(*) FROM token")?.query_row([], |row| row.get(0))?;
        if count >= MAX_TOKENS {
            return Err(StoreError::TooMany { kind: "enrolment token", limit: MAX_TOKENS });
        }
        self.sql
            .prepare_cached(
                "INSERT INTO token (id, secret_hash, expire_time, labels, node, create_time, creator, uses, uses_left, \
                 requires_approval) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute(params![
                token.id,
                token.secret_hash,
                rows::micros(token.expire_time),
                rows::to_json(&token.labels)?,
                token.node.as_ref().map(NodeName::as_str),
                rows::micros(token.create_time),
                token.creator,
                token.uses,
                token.uses_left,
                token.requires_approval,
            ])?;
        Ok(())
    }

    /// Deletes a token, and the machines that wait with it.
    pub(super) fn delete_token(&mut self, id: &str, terms: &Terms) -> Result<(), StoreError> {
        if !self.sql.prepare_cached("SELECT 1 FROM token WHERE id = ?1")?.exists([id])? {
            return Err(StoreError::NotFound { kind: "enrolment token", name: id.to_owned() });
        }
        if !terms.validate_only {
            self.sql.prepare_cached("DELETE FROM token WHERE id = ?1")?.execute([id])?;
            self.sql
                .prepare_cached("DELETE FROM admission WHERE token = ?1 AND state = ?2")?
                .execute(params![id, State::Waits as u8])?;
        }
        Ok(())
    }

    /// Deletes the tokens that can no longer be spent, and the machines that waited for too long.
    pub(super) fn purge_tokens(&mut self, now: Timestamp) -> Result<(), StoreError> {
        self.sql.prepare_cached("DELETE FROM token WHERE expire_time <= ?1")?.execute([rows::micros(now)])?;
        self.sql.prepare_cached("DELETE FROM admission WHERE expire_time <= ?1")?.execute([rows::micros(now)])?;
        Ok(())
    }

    /// Spends a use of a token, and adds a node with its labels or lets the machine wait for approval.
    pub(super) fn enroll(&mut self, request: &Enrolling, now: Timestamp) -> Result<Enrolled, StoreError> {
        let asked = self.admission(&request.node, now)?;
        if let Some(asked) = asked.as_ref().filter(|asked| asked.is_of(request)) {
            return match asked.state {
                State::Waits => Ok(Enrolled::Waits(asked.machine.clone())),
                State::Approved => Ok(Enrolled::Node(Box::new(self.enrolled(&request.node)?))),
                State::Denied => Err(StoreError::Denied(request.node.clone())),
            };
        }
        let token = self.spendable(request, now)?;
        let name = &request.node;
        if token.node.as_ref().is_some_and(|only| only != name) {
            return Err(StoreError::TokenForOther(token.node.unwrap_or_else(|| name.clone())));
        }
        let for_name = token.node.is_some();
        if !for_name && self.node_exists(name)? {
            return Err(StoreError::AlreadyExists { kind: "node", name: name.to_string() });
        }
        if !token.requires_approval {
            self.spend(&token)?;
            return self.become_node(name, token.labels, for_name, now).map(|node| Enrolled::Node(Box::new(node)));
        }
        if asked.is_some_and(|asked| asked.state == State::Waits) {
            return Err(StoreError::AlreadyExists { kind: "pending node", name: name.to_string() });
        }
        let waiting: u32 = self
            .sql
            .prepare_cached("SELECT count(*) FROM admission WHERE state = ?1 AND expire_time > ?2")?
            .query_row(params![State::Waits as u8, rows::micros(now)], |row| row.get(0))?;
        if waiting >= MAX_PENDING {
            return Err(StoreError::TooMany { kind: "pending node", limit: MAX_PENDING });
        }
        self.spend(&token)?;
        self.wait(request, token, for_name, now).map(Enrolled::Waits)
    }

    fn spendable(&self, request: &Enrolling, now: Timestamp) -> Result<StoredToken, StoreError> {
        self.sql
            .prepare_cached(concat!("SELECT ", rows::token_columns!(), " FROM token WHERE id = ?1"))?
            .query_row([&request.token_id], rows::token)
            .optional()?
            .filter(|token| equal_hashes(&token.secret_hash, &request.secret_hash) && token.expire_time > now)
            .ok_or(StoreError::BadToken)
    }

    /// A token with no uses left is gone.
    fn spend(&mut self, token: &StoredToken) -> Result<(), StoreError> {
        if token.uses_left > 1 {
            self.sql
                .prepare_cached("UPDATE token SET uses_left = uses_left - 1 WHERE id = ?1")?
                .execute([&token.id])?;
        } else {
            self.sql.prepare_cached("DELETE FROM token WHERE id = ?1")?.execute([&token.id])?;
        }
        Ok(())
    }

    fn wait(
        &mut self,
        request: &Enrolling,
        token: StoredToken,
        for_name: bool,
        now: Timestamp,
    ) -> Result<PendingNode, StoreError> {
        let machine = PendingNode {
            name: request.node.clone(),
            key: request.key,
            address: request.address,
            token: token.id,
            labels: token.labels,
            create_time: now,
            expire_time: later(now),
        };
        self.sql
            .prepare_cached(
                "INSERT OR REPLACE INTO admission (name, key, address, token, labels, create_time, expire_time, \
                 secret_hash, for_name, state) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute(params![
                machine.name.as_str(),
                machine.key.0,
                machine.address.to_string(),
                machine.token,
                rows::to_json(&machine.labels)?,
                rows::micros(machine.create_time),
                rows::micros(machine.expire_time),
                request.secret_hash,
                for_name,
                State::Waits as u8,
            ])?;
        Ok(machine)
    }

    fn admission(&self, name: &NodeName, now: Timestamp) -> Result<Option<Admission>, StoreError> {
        let found = self
            .sql
            .prepare_cached(concat!(
                "SELECT ",
                rows::pending_columns!(),
                ", secret_hash, for_name, state FROM admission WHERE name = ?1 AND expire_time > ?2"
            ))?
            .query_row(params![name.as_str(), rows::micros(now)], admission)
            .optional()?;
        Ok(found)
    }

    fn waiting(&self, name: &NodeName, terms: &Terms, now: Timestamp) -> Result<Admission, StoreError> {
        let found = self.admission(name, now)?.filter(|found| found.state == State::Waits);
        let found = found.ok_or_else(|| no_pending(name))?;
        terms.admit(&found.machine.etag(), "pending node", name.as_str())?;
        Ok(found)
    }

    /// Makes a machine that waits a node; it has a day to fetch its certificate.
    pub(super) fn approve(&mut self, name: &NodeName, terms: &Terms, now: Timestamp) -> Result<Node, StoreError> {
        let Admission { machine, for_name, .. } = self.waiting(name, terms, now)?;
        if !for_name && self.node_exists(name)? {
            return Err(StoreError::AlreadyExists { kind: "node", name: name.to_string() });
        }
        if terms.validate_only {
            return Ok(new_node(name, machine.labels, now));
        }
        let node = self.become_node(name, machine.labels.clone(), for_name, now)?;
        // Whoever becomes a node leaves no other request under its name; its own stays until the certificate is fetched.
        self.settle(name, State::Approved, now)?;
        Ok(node)
    }

    /// Turns a machine that waits away.
    pub(super) fn deny(&mut self, name: &NodeName, terms: &Terms, now: Timestamp) -> Result<(), StoreError> {
        self.waiting(name, terms, now)?;
        if terms.validate_only { Ok(()) } else { self.settle(name, State::Denied, now) }
    }

    fn settle(&mut self, name: &NodeName, state: State, now: Timestamp) -> Result<(), StoreError> {
        self.sql
            .prepare_cached("UPDATE admission SET state = ?2, expire_time = ?3 WHERE name = ?1")?
            .execute(params![name.as_str(), state as u8, rows::micros(later(now))])?;
        Ok(())
    }

    /// Ends what an earlier approval allows: its machine is the node of this name no longer.
    pub(super) fn forget_approval(&mut self, name: &NodeName) -> Result<(), StoreError> {
        self.sql
            .prepare_cached("DELETE FROM admission WHERE name = ?1 AND state = ?2")?
            .execute(params![name.as_str(), State::Approved as u8])?;
        Ok(())
    }

    fn become_node(
        &mut self,
        name: &NodeName,
        labels: Labels,
        for_name: bool,
        now: Timestamp,
    ) -> Result<Node, StoreError> {
        self.forget_approval(name)?;
        if for_name && self.node_exists(name)? {
            self.enroll_anew(name, labels, now)
        } else {
            self.add_node(name, labels, now)
        }
    }

    fn add_node(&mut self, name: &NodeName, labels: Labels, now: Timestamp) -> Result<Node, StoreError> {
        let node = new_node(name, labels, now);
        self.sql
            .prepare_cached("INSERT INTO node (name, labels, enroll_time) VALUES (?1, ?2, ?3)")?
            .execute(params![name.as_str(), rows::to_json(&node.labels)?, rows::micros(now)])?;
        Ok(node)
    }

    /// Whoever holds an older certificate of this name is the node no longer; all else stays as it is.
    fn enroll_anew(&mut self, name: &NodeName, labels: Labels, now: Timestamp) -> Result<Node, StoreError> {
        let mut node = self.enrolled(name)?;
        node.labels.extend(labels);
        node.enroll_time = now;
        self.sql.prepare_cached("UPDATE node SET labels = ?2, enroll_time = ?3 WHERE name = ?1")?.execute(params![
            name.as_str(),
            rows::to_json(&node.labels)?,
            rows::micros(now)
        ])?;
        self.tell_node(Change::Reenrolled { node: name.clone() });
        Ok(node)
    }
}

fn new_node(name: &NodeName, labels: Labels, now: Timestamp) -> Node {
    Node { name: name.clone(), labels, enroll_time: now, last_seen: None, info: None, certificate_end: None }
}

fn later(now: Timestamp) -> Timestamp {
    now.checked_add(ADMISSION_LIFE).unwrap_or(Timestamp::MAX)
}
