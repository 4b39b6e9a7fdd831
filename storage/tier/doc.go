// Package tier keeps content and records in two places: near, on this machine, and far, in
// a store that several mirrors share.
//
//	          Commit, Put                       Open, Get
//	              |                                |
//	              v        in the background       v
//	near: disk --------------------------------> far: bucket
//	                uploads, writes
//
// Clients are served from near, and no client waits for an upload. [Store] uploads each
// content that is committed. Content that is not near is not content of [Store]: a
// download reads it from far as from an upstream, and commits it.
//
// [Records] reads records from far, since another mirror may have changed them, and keeps
// them in memory for a short time. Each record is near too: while far cannot be
// asked, the last known one answers.
//
// An upload or a write that fails is repeated with growing pauses. It is abandoned after a
// number of attempts; pauses of far itself do not count. At the next start, and
// some hours later, [Uploader] compares near with far and uploads the rest.
package tier
