//! Runs operations on an overlay and on the model, and compares after each.
//!
//! It uses the overlay only as a FUSE adapter would: by inode number, with every
//! reference that was taken given back. It must never look into the overlay or
//! its storage to know what to expect.

mod refs;
mod run;
mod stream;
mod verify;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use agentfs_core::lower::LowerLayer;
use agentfs_core::overlay::{Overlay, OverlayConfig};
use agentfs_core::storage::Storage;
use agentfs_core::types::{Clock, Ino, ManualClock, Name, Owner, Timestamp};

use crate::faults::{Faults, FaultyLower, FaultyStorage};
use crate::model::{Model, NodeId, Outcome};
use crate::op::{Action, Op, hidden_name};

use refs::Handle;
use stream::Stream;

/// The overlay and the model came apart. Says at what and how.
#[derive(Debug)]
pub struct Divergence(pub String);

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Divergence {}

/// The result of a comparison.
pub type Checked = Result<(), Divergence>;

/// Ends a comparison with a [`Divergence`].
macro_rules! diverged {
    ($($arg:tt)*) => { return Err($crate::driver::Divergence(format!($($arg)*))) };
}
pub(crate) use diverged;

/// Where an overlay under test gets its layers from.
pub trait World {
    /// The upper layer.
    type S: Storage;
    /// The lower layer.
    type L: LowerLayer;

    /// Opens the storage: the same content every time. What an earlier call gave
    /// is gone by then.
    fn storage(&mut self) -> Self::S;
    /// Opens the lower layer.
    fn lower(&mut self) -> Self::L;
}

/// Where the clock of a run starts.
const CLOCK_START_SECS: i64 = 1_800_000_000;

/// How long references from lookups are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefPolicy {
    /// Given back after every operation.
    Eager,
    /// Kept until told otherwise, as a kernel with memory to spare does.
    Kernel,
}

/// How a run is done.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// When references are given back.
    pub refs: RefPolicy,
    /// The whole view is compared after every so many operations.
    pub verify_every: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            refs: RefPolicy::Eager,
            verify_every: 1,
        }
    }
}

type View<W> = Overlay<FaultyStorage<<W as World>::S>, FaultyLower<<W as World>::L>>;

/// An overlay and a model, side by side.
pub struct Driver<W: World> {
    /// Goes before the world that its layers come from.
    overlay: Option<View<W>>,
    world: W,
    options: Options,
    /// The model as it should be now.
    pub model: Model,
    initial: Model,
    chunk: u64,
    clock: Arc<ManualClock>,
    steps: u32,
    /// Faults and counts of the storage.
    pub storage_faults: Faults,
    /// Faults of the lower layer.
    pub lower_faults: Faults,
    inos: HashMap<NodeId, Ino>,
    refs: HashMap<NodeId, (Ino, u64)>,
    handles: Vec<Handle>,
    streams: Vec<Stream>,
    /// A fault has kept something unlinked from being removed.
    orphans_may_stay: bool,
    /// The times before a `setattr` that asked for what was there.
    idle_change: Option<(NodeId, Timestamp, Timestamp)>,
}

/// Which layer fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultIn {
    /// The storage.
    Storage,
    /// The lower layer.
    Lower,
}

impl<W: World> Driver<W> {
    /// Opens an overlay on the layers of `world`, its storage being empty.
    ///
    /// # Errors
    /// [`Divergence`] when it does not open.
    pub fn new(mut world: W, options: Options) -> Result<Self, Divergence> {
        let model = Model::from_lower(&world.lower(), &[hidden_name()]);
        let mut driver = Self::attach(world, options, model)?;
        driver.verify()?;
        Ok(driver)
    }

    /// Opens an overlay on layers that hold something already, which should look
    /// like `model`; nothing is compared yet.
    ///
    /// # Errors
    /// [`Divergence`] when it does not open.
    pub fn attach(mut world: W, options: Options, model: Model) -> Result<Self, Divergence> {
        let initial = Model::from_lower(&world.lower(), &[hidden_name()]);
        let mut driver = Self {
            overlay: None,
            world,
            options,
            initial,
            model,
            chunk: 0,
            clock: Arc::new(ManualClock::new(Timestamp::new(CLOCK_START_SECS, 0))),
            steps: 0,
            storage_faults: Faults::default(),
            lower_faults: Faults::default(),
            inos: HashMap::new(),
            refs: HashMap::new(),
            handles: Vec::new(),
            streams: Vec::new(),
            orphans_may_stay: false,
            idle_change: None,
        };
        driver.open()?;
        driver.expect_lower_numbers();
        Ok(driver)
    }

    /// Compares the view with another model than before.
    ///
    /// # Errors
    /// [`Divergence`]: it does not look like that.
    pub fn looks_like(&mut self, model: &Model) -> Checked {
        self.model = model.clone();
        self.inos.clear();
        self.expect_lower_numbers();
        self.verify()
    }

    fn open(&mut self) -> Checked {
        self.overlay = None;
        let storage = self.world.storage();
        self.chunk = storage.chunk_size_bytes().into();
        let config = OverlayConfig {
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            hidden: vec![hidden_name()],
            root_owner: Owner::default(),
        };
        let storage = FaultyStorage::new(storage, self.storage_faults.clone());
        let lower = FaultyLower::new(self.world.lower(), self.lower_faults.clone());
        match Overlay::open(storage, lower, config) {
            Ok(overlay) => self.overlay = Some(overlay),
            Err(e) => diverged!("open: {e}"),
        }
        Ok(())
    }

    /// The overlay.
    pub fn overlay(&self) -> &View<W> {
        self.overlay.as_ref().expect("open between operations")
    }

    /// Runs a whole sequence and what has to hold at its end.
    ///
    /// # Errors
    /// [`Divergence`], the first there is.
    pub fn run(&mut self, ops: &[Op]) -> Checked {
        for op in ops {
            self.step(op)?;
        }
        self.finish()
    }

    /// What has to hold at the end: reopening shows the same, the lower layer is
    /// as it was.
    ///
    /// # Errors
    /// [`Divergence`].
    pub fn finish(&mut self) -> Checked {
        self.verify()?;
        self.reopen()?;
        self.verify()?;
        let now = Model::from_lower(&self.world.lower(), &[hidden_name()]);
        if now != self.initial {
            diverged!("the lower layer changed");
        }
        Ok(())
    }

    fn tick(&mut self) {
        self.steps += 1;
        let nanos = self.steps.wrapping_mul(7_919) % 1_000_000_000;
        let now = Timestamp::new(CLOCK_START_SECS + i64::from(self.steps), nanos);
        self.clock.set(now);
        self.model.now = now;
    }

    fn resolve(&self, op: &Op) -> Option<Action> {
        let held: Vec<NodeId> = self.handles.iter().map(|h| h.node).collect();
        op.resolve(&self.model, &held, self.streams.len(), self.chunk)
    }

    /// Runs one operation on both and compares.
    ///
    /// # Errors
    /// [`Divergence`].
    pub fn step(&mut self, op: &Op) -> Checked {
        self.tick();
        let Some(action) = self.resolve(op) else {
            return Ok(());
        };
        self.in_context(&action, |driver| {
            driver.act(&action)?;
            if driver.steps.is_multiple_of(driver.options.verify_every) {
                driver.verify()?;
            }
            Ok(())
        })
    }

    fn in_context(&mut self, action: &Action, f: impl FnOnce(&mut Self) -> Checked) -> Checked {
        let step = self.steps;
        f(self).map_err(|Divergence(what)| Divergence(format!("step {step}, {action:?}: {what}")))
    }

    /// Runs one operation again and again, failing the first call into a layer,
    /// then the second, until it runs through; compares after every try.
    ///
    /// # Errors
    /// [`Divergence`].
    pub fn step_with_faults(&mut self, op: &Op, layer: FaultIn) -> Checked {
        const MOST_CALLS: u64 = 10_000;
        self.tick();
        let Some(action) = self.resolve(op) else {
            return Ok(());
        };
        let faults = match layer {
            FaultIn::Storage => self.storage_faults.clone(),
            FaultIn::Lower => self.lower_faults.clone(),
        };
        for nth in 1..MOST_CALLS {
            let mut over = false;
            let prepared = self.prepare(&action)?;
            self.in_context(&action, |driver| {
                if driver.is_lifecycle(&action) {
                    over = true;
                    // Forgetting reports no errors; what it could not remove
                    // goes at the next start.
                    if matches!(action, Action::Release { .. }) {
                        faults.arm(1 + u64::from(driver.steps % 5));
                    }
                    driver.act(&action)?;
                    driver.orphans_may_stay |= faults.disarm();
                    return driver.verify();
                }
                faults.arm(nth);
                let real = driver.perform(&action, &prepared);
                let fired = faults.disarm();
                let outcome = match real {
                    Err(_) if fired => Ok(()),
                    real => {
                        over = true;
                        let expected = driver.expect(&action);
                        driver.settle(&action, real, expected)
                    }
                };
                outcome?;
                driver.after_action()?;
                driver.verify().map_err(|Divergence(what)| {
                    Divergence(format!("after a fault at call {nth} in {layer:?}: {what}"))
                })
            })?;
            if over {
                return Ok(());
            }
        }
        Err(Divergence(format!(
            "{action:?} makes over {MOST_CALLS} calls"
        )))
    }

    fn act(&mut self, action: &Action) -> Checked {
        match action {
            Action::Hold { node } => self.hold(*node)?,
            Action::Release { handle } => self.release(*handle),
            Action::StreamOpen { dir } => self.stream_open(*dir)?,
            Action::StreamStep { stream, entries } => self.stream_step(*stream, *entries)?,
            Action::ForgetAll => self.forget_refs(),
            Action::Invalidate { dir } => self.invalidate(*dir)?,
            Action::Reopen => self.reopen()?,
            _ => {
                let prepared = self.prepare(action)?;
                let before = self.storage_faults.tally();
                let real = self.perform(action, &prepared);
                let written = self.storage_faults.tally() - before;
                let expected = self.expect(action);
                self.settle(action, real, expected)?;
                self.check_written(action, written)?;
            }
        }
        self.after_action()
    }

    fn is_lifecycle(&self, action: &Action) -> bool {
        matches!(
            action,
            Action::Hold { .. }
                | Action::Release { .. }
                | Action::StreamOpen { .. }
                | Action::StreamStep { .. }
                | Action::ForgetAll
                | Action::Invalidate { .. }
                | Action::Reopen
        )
    }

    fn after_action(&mut self) -> Checked {
        match self.options.refs {
            RefPolicy::Eager => self.forget_refs(),
            RefPolicy::Kernel => self.forget_dead_refs(),
        }
        self.update_streams();
        Ok(())
    }

    /// What the model says; it changes with that.
    fn expect(&mut self, action: &Action) -> Outcome {
        self.idle_change = None;
        if let Action::SetAttr { node, set } = action {
            let now = self.model.node(*node);
            // Documented: a base object is not copied up for what it has already.
            if now.lower_id.is_some() && now.has_already(set) {
                self.idle_change = Some((*node, now.mtime, now.ctime));
            }
        }
        self.model.apply(action)
    }

    fn invalidate(&mut self, dir: NodeId) -> Checked {
        let ino = self.ino_of(dir)?;
        let names: Vec<Name> = self.model.entries(dir).keys().cloned().collect();
        self.overlay().lower_changed(ino, None);
        for name in &names {
            self.overlay().lower_changed(ino, Some(name));
        }
        self.overlay().storage_changed();
        Ok(())
    }

    fn reopen(&mut self) -> Checked {
        self.streams.clear();
        self.refs.clear();
        self.orphans_may_stay = false;
        for handle in std::mem::take(&mut self.handles) {
            self.model.release(handle.node);
        }
        self.open()
    }

    /// Leaves the world to whoever wants to look at it.
    pub fn into_world(mut self) -> W {
        self.overlay = None;
        self.world
    }
}

/// A readable form of a name in a message.
fn show(name: &Name) -> String {
    let bytes = name.as_bytes();
    let shown = bytes[..bytes.len().min(12)].escape_ascii().to_string();
    if bytes.len() > 12 {
        format!("{shown}... ({} bytes)", bytes.len())
    } else {
        shown
    }
}
