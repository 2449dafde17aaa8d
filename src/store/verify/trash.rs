//! The trash: nothing that is kept needs it, so damage there is no loss; it is named all the same, because a backup that runs may come back for
//! it. And should a snapshot lack what lies there, that is said: it can be put back.

use crate::model::ChunkId;
use crate::platform::shutdown::Shutdown;
use crate::store::error::{Error, Result};
use crate::store::pack_look;
use crate::store::packs::Packs;
use crate::store::prune::trash;
use crate::store::verify::packs::Depth;
use std::collections::HashSet;

/// Looks at everything in the trash; returns what there is to say, in sentences.
pub(crate) fn look(
    packs: &Packs,
    depth: Depth,
    lacking: &HashSet<ChunkId>,
    shutdown: &Shutdown,
) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for trashed in trash::list(&*packs.shelf)? {
        if shutdown.is_stopped() {
            return Err(Error::Stopped);
        }
        let name = &trashed.name;
        let object = match packs.shelf.open(name) {
            // Deleted, or put back, meanwhile.
            Err(error) if error.is_not_found() => continue,
            Err(error) => {
                notes.push(format!("`{name}` cannot be read at the moment: {}", error.source));
                continue;
            }
            Ok(object) => object,
        };
        let mut read = |_| if shutdown.is_stopped() { Err(Error::Stopped) } else { Ok(()) };
        let (indexed, problem) = match (depth, pack_look::trailer(trashed.pack, &*object)) {
            (Depth::Trailer, Ok(indexed)) => (Some(indexed), None),
            (_, trailer) => match pack_look::whole(trashed.pack, &*object, &mut read, &mut |_| Ok(())) {
                Err(Error::Platform(error)) => {
                    notes.push(format!("`{name}` cannot be read at the moment: {}", error.source));
                    continue;
                }
                look => {
                    let look = look?;
                    (trailer.ok(), (!look.is_whole()).then(|| look.problems.join("; ")))
                }
            },
        };
        let known = indexed.is_some();
        let wanted = indexed.is_some_and(|indexed| indexed.chunks.keys().any(|id| lacking.contains(id)));
        notes.extend(match (problem, wanted) {
            (None, false) => None,
            (None, true) => Some(format!("`{name}` holds what a snapshot lacks; `lan-backup repair` puts it back")),
            (Some(problem), true) => Some(format!(
                "`{name}` is damaged ({problem}), and was to hold what a snapshot lacks; `lan-backup repair` puts back what is good of it"
            )),
            (Some(problem), false) if known || lacking.is_empty() => {
                Some(format!("`{name}` is damaged ({problem}); nothing that is kept needs it"))
            }
            (Some(problem), false) => {
                Some(format!("`{name}` is damaged ({problem}); whether it holds what a snapshot lacks is not known"))
            }
        });
    }
    Ok(notes)
}
