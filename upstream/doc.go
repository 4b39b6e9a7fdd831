// Package upstream reads registries that others run: one of them ([Client]), or
// several in order ([Chain]). Both are an [oci.Registry].
//
// A request of a Client passes through these layers, from the outside in:
//
//   - the operation (manifest.go, blob.go, tags.go, referrers.go) knows the
//     OCI distribution API and which answers are valid;
//   - do (client.go, refusal.go) refuses while the registry cools down, bounds
//     the time to the headers, retries a failure that is soon over, counts, and
//     turns every failure into an [*Error] of one [Class];
//   - followRedirects (redirect.go) follows redirects within limits;
//   - authTransport (auth.go, token.go, challenge.go) answers challenges;
//   - originTransport (transport.go) notes whether the upstream's own origin can
//     be connected to, and its rate limit;
//   - http.Transport speaks HTTP.
//
// A Chain (chain.go) asks its members in order. A [Member] is any registry with
// a [Health]. Two functions decide the meaning of a failure: classify says which
// class a status is, and advances which class sends a question on to the next
// member. A blob that breaks off continues at its offset (blob_reader.go), on
// the member that a retryPolicy (retry.go) names: blobs are addressed by their
// digest, so the bytes of any member will do.
//
// The cooldown of a registry (cooldown.go, limit.go, health.go) is state of its
// Client, which therefore outlives the chains that share it. A 429 stops one operation
// until its time is over: manifests, blobs, lists or tokens, or all that a host behind a
// redirect would deliver for one of these. All operations are stopped by these states:
//
//	available --corrupt content repeatedly---> corrupt -------its time is over--> available
//	available --three failed connects--------> unreachable ---its time is over--> probing
//	probing   --connected--> available;  probing --failed--> unreachable, for twice the time
//
// Requests that wait without success, while the registry answers no other one, count as failed connects.
// If several causes hold at once, the registry is in the state of the latest in
// the order available, probing, unreachable, corrupt. While all members of a chain are
// stopped, those that are unreachable are watched: a probe every second, beside the
// requests, finds out whether they are back.
//
// A limit is shared through [Cooldowns]; package sharedcooldown implements it. The
// package knows no storage, no namespaces and no inbound HTTP.
package upstream
