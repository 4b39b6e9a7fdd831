// Package flight runs a piece of work once for all callers that ask for it at
// the same time, detached from each of them.
//
// A [Group] shares calls by key: the first caller of a key starts a call, later
// callers join it, and all of them get its value. A call does not end when its
// callers leave, because its result is often worth caching, and because the
// first caller's cancellation must not fail the others.
//
// Detached work needs an owner. That is the [Scope]: it can wait until no call
// is under way and refuses new ones from then on, so that a store is not closed
// while a call still writes to it. Groups of different types share one scope:
//
//	scope := flight.NewScope()
//	manifests := flight.NewGroup[key, *manifest](scope)
//	proofs := flight.NewGroup[key, descriptor](scope)
//	...
//	err := scope.Drain(ctx) // waits until no call is under way
//	scope.Close()           // cancels those that still run
//
// A panic in a call becomes a [PanicError] of all its callers: no caller's
// recover could catch it, and it would end the process.
package flight
