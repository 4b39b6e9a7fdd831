// Package upstream reads registries that others run: one of them ([Client]),
// or several in order ([Chain]).
//
// A request of a Client passes through these layers, from the outside in:
//
//   - the operation (manifest.go, blob.go, tags.go, referrers.go) knows the
//     OCI distribution API and what a valid answer is;
//   - do (client.go, refusal.go) asks nothing of a registry that rests (rest.go), bounds
//     the time to the headers, retries what is worth it, counts, and turns
//     every failure into an [*Error] of one [Class];
//   - follow (redirect.go) follows redirects within limits;
//   - authTransport (auth.go, token.go, challenge.go) answers challenges;
//   - originTransport (transport.go) notes what connects and answers of the
//     upstream's own origin tell: whether it is alive and its rate limit;
//   - http.Transport speaks HTTP.
//
// A Chain asks its members in order. What a failure means is decided in two
// functions only: classify says which class a status is, and advances which
// class sends a question on to the next member. A blobReader goes on where a broken
// stream left off (resume.go), on any member: blobs are addressed by their
// digest, so any member's bytes will do.
//
// Whether a registry rests is the state of its Client (rest.go, health.go), which
// therefore outlives the chains that share it. A rest after 429 is shared through
// [Cooldowns]; package sharedcooldown implements it. The package knows no storage, no
// namespaces and no inbound HTTP.
package upstream
