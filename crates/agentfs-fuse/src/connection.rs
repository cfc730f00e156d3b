//! One mount's connection to the kernel: [`agree`] on the protocol, then
//! [`answer_requests`], on each of the threads that do.

use std::io;
use std::sync::Arc;

use agentfs_core::{LowerLayer, Storage};

use crate::adapter::AgentFs;
use crate::device::Device;
use crate::protocol::{Answer, Errno, Offer, Request, RequestMemory};

/// Waits for what the kernel asks first, and agrees with it on what it may do without
/// asking.
///
/// # Errors
/// The mount has ended, the kernel is too old, or what comes is no INIT.
pub(crate) fn agree<S: Storage, L: LowerLayer>(
    fs: &mut AgentFs<S, L>,
    device: &Device,
) -> io::Result<()> {
    let mut memory = RequestMemory::new();
    let mut answer = Answer::new();
    loop {
        let request = next_request(device, &mut memory)?;
        let request = request.ok_or(io::ErrorKind::NotConnected)?;
        let offer = if request.is_init() {
            Offer::parse(&request)
        } else {
            Err(Errno::IO)
        };
        answer.clear();
        match offer {
            Ok(offer) => {
                answer.init(&offer, fs.negotiate(&offer));
                device.answer(answer.finish(request.unique, None));
                if !offer.is_of_another_major() {
                    return Ok(());
                }
            }
            Err(refused) => {
                device.answer(answer.finish(request.unique, Some(refused)));
                return Err(refused.into());
            }
        }
    }
}

/// Answers requests until the mount ends.
///
/// # Errors
/// The device cannot be read any more, or gives what is no request.
pub(crate) fn answer_requests<S: Storage, L: LowerLayer>(
    fs: &AgentFs<S, L>,
    device: &Arc<Device>,
) -> io::Result<()> {
    let mut memory = RequestMemory::new();
    let mut answer = Answer::new();
    while let Some(request) = next_request(device, &mut memory)? {
        fs.answer(&request, device, &mut answer);
    }
    Ok(())
}

/// Waits for a request; `None` when the mount has ended.
fn next_request<'m>(
    device: &Device,
    memory: &'m mut RequestMemory,
) -> io::Result<Option<Request<'m>>> {
    let memory = memory.as_mut();
    let Some(len) = device.receive(memory)? else {
        return Ok(None);
    };
    let request = memory.get(..len).and_then(Request::parse);
    Ok(Some(request.ok_or(io::ErrorKind::InvalidData)?))
}

#[cfg(test)]
mod tests;
