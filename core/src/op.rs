//! Single operations as futures.
//!
//! The buffer moves into the operation and comes back with the result. When the
//! future is dropped first, the operation is cancelled and the buffer stays with
//! the reactor for as long as the kernel may still use it.

use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::executor::{try_with_inner, with_inner};
use crate::io::{Backend as _, Operation};

/// Memory the kernel may write to while an operation runs.
///
/// # Safety
/// `as_mut_ptr` must return the start of `len` initialised bytes that stay where
/// they are when the value is moved, until it is dropped.
pub unsafe trait StableBuffer: 'static {
    /// Start of the memory.
    fn as_mut_ptr(&mut self) -> *mut u8;
    /// Bytes of it.
    fn len(&self) -> usize;
    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

// SAFETY: a vector's bytes up to its length are initialised, and live on the
// heap, so that moving the vector does not move them.
unsafe impl StableBuffer for Vec<u8> {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        Self::as_mut_ptr(self)
    }
    fn len(&self) -> usize {
        Self::len(self)
    }
}

struct Resource<B> {
    buffer: B,
    /// Keeps the descriptor open, and its number from being reused, meanwhile.
    _fd: Rc<OwnedFd>,
}

struct Op<B> {
    index: Option<usize>,
    _buffer: PhantomData<fn() -> B>,
}

impl<B: StableBuffer> Op<B> {
    fn start(
        fd: Rc<OwnedFd>,
        mut buffer: B,
        operation: impl FnOnce(RawFd, *mut u8, u32) -> Operation,
    ) -> Self {
        // Longer buffers are used in part, as read(2) and write(2) allow.
        let len = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        let operation = operation(fd.as_raw_fd(), buffer.as_mut_ptr(), len);
        let resource = Box::new(Resource { buffer, _fd: fd });
        let index = with_inner(|inner| inner.io.borrow_mut().start(operation, resource));
        Self { index: Some(index), _buffer: PhantomData }
    }
}

impl<B: StableBuffer> Future for Op<B> {
    type Output = (io::Result<usize>, B);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let index = self.index.expect("not polled after completion");
        let done = with_inner(|inner| inner.io.borrow_mut().poll_op(index, cx.waker()));
        let Some((result, resource)) = done else { return Poll::Pending };
        self.index = None;
        let resource = resource.downcast::<Resource<B>>().expect("the type it was started with");
        let result = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.wrapping_neg()));
        Poll::Ready((result, resource.buffer))
    }
}

impl<B> Drop for Op<B> {
    fn drop(&mut self) {
        if let Some(index) = self.index {
            // With the reactor gone, its backend has let go of it already.
            try_with_inner(|inner| inner.io.borrow_mut().orphan(index));
        }
    }
}

/// Reads at the descriptor's position into `buffer`, as `read(2)`. Waits until
/// there is something, for descriptors that can wait.
pub async fn read<B: StableBuffer>(fd: Rc<OwnedFd>, buffer: B) -> (io::Result<usize>, B) {
    Op::start(fd, buffer, |fd, to, len| Operation::Read { fd, to, len }).await
}

/// Writes `buffer` at the descriptor's position, as `write(2)`, perhaps in part.
pub async fn write<B: StableBuffer>(fd: Rc<OwnedFd>, buffer: B) -> (io::Result<usize>, B) {
    Op::start(fd, buffer, |fd, from, len| Operation::Write { fd, from, len }).await
}
