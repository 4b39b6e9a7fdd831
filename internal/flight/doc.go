// Package flight runs a piece of work once for all callers that ask for it at
// the same time, detached from each of them.
//
// A [Group] shares calls by key: the first caller of a key starts a call, later
// callers join it, and all of them get its value. A caller that leaves does not end
// the call, since the others must not fail with it. A call that no caller has waited for
// during some seconds is cancelled: otherwise a client that asks and leaves again and
// again would have calls without end.
//
// A call may have a setback, such as the first failure of a question that is asked again.
// Callers with something else to go on with do not wait for the end ([Terms]).
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
