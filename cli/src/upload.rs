//! A body that comes from a file or from standard input, and can be sent a second time while little of it is gone: what has
//! been read so far is kept, up to a limit.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tokio::{io::AsyncRead, sync::Mutex};
use tokio_util::io::ReaderStream;

/// How much of what was read is kept.
const KEPT_BYTES: usize = 1 << 20;
/// How much is read at a time.
const PIECE_BYTES: usize = 256 * 1024;

/// The source of a body.
#[derive(Clone)]
pub struct Source(Arc<Mutex<Reading>>);

struct Reading {
    rest: ReaderStream<Box<dyn AsyncRead + Send + Unpin>>,
    /// What was read, from the start; none when there was more of it than is kept.
    kept: Option<Vec<Bytes>>,
    /// Which attempt may read on: a body that was given up may not take what the next one needs.
    attempt: u64,
    read: Box<dyn Fn(u64) + Send>,
}

impl Source {
    /// From a reader; `read` hears of every piece.
    pub fn new(reader: Box<dyn AsyncRead + Send + Unpin>, read: impl Fn(u64) + Send + 'static) -> Self {
        let rest = ReaderStream::with_capacity(reader, PIECE_BYTES);
        Self(Arc::new(Mutex::new(Reading { rest, kept: Some(Vec::new()), attempt: 0, read: Box::new(read) })))
    }

    /// The whole body, for one attempt; none when too much was read in the attempts before.
    pub async fn body(&self) -> Option<reqwest::Body> {
        self.pieces().await.map(reqwest::Body::wrap_stream)
    }

    async fn pieces(&self) -> Option<impl Stream<Item = io::Result<Bytes>> + Send + use<>> {
        let mut reading = self.0.lock().await;
        reading.kept.as_ref()?;
        reading.attempt += 1;
        let (source, attempt) = (self.clone(), reading.attempt);
        Some(stream::unfold(0, move |place| {
            let source = source.clone();
            async move { Some((source.piece(attempt, place).await?, place + 1)) }
        }))
    }

    /// The piece at this place, for this attempt.
    async fn piece(&self, attempt: u64, place: usize) -> Option<io::Result<Bytes>> {
        let mut reading = self.0.lock().await;
        if attempt != reading.attempt {
            return Some(Err(io::Error::other("another attempt sends this body")));
        }
        if let Some(piece) = reading.kept.as_ref().and_then(|kept| kept.get(place)) {
            return Some(Ok(piece.clone()));
        }
        let piece = reading.rest.next().await?;
        if let Ok(piece) = &piece {
            (reading.read)(piece.len() as u64);
            let length = reading.kept.iter().flatten().map(Bytes::len).sum::<usize>() + piece.len();
            match &mut reading.kept {
                Some(kept) if length <= KEPT_BYTES => kept.push(piece.clone()),
                kept => *kept = None,
            }
        }
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;

    fn source(bytes: usize) -> Source {
        Source::new(Box::new(io::Cursor::new(vec![7; bytes])), |_| {})
    }

    async fn whole(source: &Source) -> Option<usize> {
        let pieces = source.pieces().await?;
        Some(pieces.try_fold(0, |sum, piece| async move { Ok(sum + piece.len()) }).await.unwrap())
    }

    #[tokio::test]
    async fn a_body_is_whole_again_while_what_was_read_is_kept() {
        let source = source(600_000);
        let mut first = Box::pin(source.pieces().await.unwrap());
        first.next().await.unwrap().unwrap();
        let second = source.pieces().await.unwrap();
        assert!(first.next().await.unwrap().is_err(), "the attempt before takes nothing more");
        assert_eq!(second.try_fold(0, |sum, piece| async move { Ok(sum + piece.len()) }).await.unwrap(), 600_000);
        assert_eq!(whole(&source).await, Some(600_000));
    }

    #[tokio::test]
    async fn what_was_not_kept_is_not_sent_again() {
        let source = source(KEPT_BYTES + 1);
        assert_eq!(whole(&source).await, Some(KEPT_BYTES + 1));
        assert_eq!(whole(&source).await, None);
    }
}
