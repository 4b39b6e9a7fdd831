// Package evict keeps a store within its limits: it deletes the least recently used
// content when the store grows too large, when its filesystem is short of free
// space, and when content has not been used for long.
//
// [Store] decorates a store. Stat, Open and Commit count as uses, so a Store belongs
// in front of a cache in memory, or it misses that cache's hits. [Quota] bounds the
// spools of running downloads together with stored content. The two share one
// inventory:
//
//	Quota    spools reserve bytes             ledger   counts bytes
//	Store    pins and uses blobs     ->    lru      finds entries, keeps the order of use
//	evictor  deletes blobs                 index    changes both together, by phases
//
// # The limit
//
// The limit is a hard cap. Stored bytes and those that spools have reserved never
// exceed it together. A download that needs more waits until enough has been
// deleted. If that takes too long, or if too much is in use, it is refused and
// streamed past the cache. Content that is open or being written is never evicted.
// A part of the limit, and of the free space, is kept free in advance, so that
// downloads seldom wait. Bytes are those of the blobs: directories and the
// rounding of the filesystem come on top. Records count, and are bounded by package
// catalog.
//
// Records of evicted content stay while they are within their own limits. They say which repositories may
// serve it, so that their upstreams need not be asked again when it comes back.
//
// # Shares
//
// Content belongs to the owner whose download brought it in, a repository block, until it is
// evicted. Records keep the owners beyond a restart. If
// several owners share the store, none of them takes it from the others. An owner that
// has more bytes than any other makes room by evicting its own content, or content
// that has not been used for a day; beyond that it gets free room outside the headroom,
// and is refused otherwise. The others make room by evicting content of that owner. So
// owners that want more and more have equal shares in the end. Content whose owner was not written
// down has none, as if that were one more.
//
// An owner may have a cap on its stored bytes. While it has more, its least recently used content
// is evicted. No download waits for that, and none is refused.
//
// # Phases
//
// A blob is in exactly one phase:
//
//	         begin              commit              open, commit
//	free ------------> committing ------> pinned <------------------- idle <-- found in
//	 ^   <------------      |               |    ------------------->  | ^     the store
//	 |    commit fails      |    Delete     |     the last user        | |
//	 |                      +--> detached <-+     has closed it        | | the deletion
//	 |                              |                                  v | fails
//	 |                              |                               deleting
//	 +------------------------------+----------------------------------+
//	  the last user has closed it              the content is gone
//
// Only idle blobs are in the order of use. A reader that asks for a blob that
// is being deleted is answered that it is not there; a commit waits for the end of the
// deletion.
//
// # Uses
//
// The use of a manifest is a use of all that it refers to: its config and layers,
// and the manifests of an index with theirs. A manifest is read in the background,
// soon after its first use and always before the next eviction. The times of last
// use are recorded once a minute, so that the order survives a restart.
//
// # Stores that mirrors share
//
// [Shared] keeps a store within limits that several mirrors use, such as a bucket, with an index of
// its own. One mirror at a time evicts; [Uses] is the part of each. Content is not removed at
// once, but leaves first:
//
//	idle -- chosen, written into the plan --> leaving (deleting) -- grace is over --> deleted
//	  ^                                          |
//	  +--------- a mirror announces a use -----------+
//
// The owners of content are announced as uses are, and written down with the order for the next mirror.
//
// A mirror makes no promises about content that leaves, and none if it has not read the plan
// recently. The grace is longer than that, and than all promises.
//
// # Goroutines and locks
//
// Requests do no I/O for this package. Five goroutines do: one scans the store at the start, each
// hour, and when told that another process has changed it; one evicts; one follows references; one
// records times of last use; and one records owners. Nothing is evicted before the first scan is
// complete, because the order
// is not known; with a limit nothing is stored either, after a short wait, because
// the number of stored bytes is not known. Changes by other processes are noticed
// when a blob is used, and by the next scan.
//
// The inventory has one mutex. It is a leaf: no other lock is taken under it but
// that of a broadcast, and no I/O, logging or callback happens under it. The index
// takes about 150 bytes for each blob.
package evict
