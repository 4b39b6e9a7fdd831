package upstream

import (
	"context"
	"errors"
	"slices"
)

type setbackKey struct{}

// OnSetback returns a context whose questions report each failure after which the upstream is
// asked again, before the pause. A caller with an older answer at hand need not wait for the
// end. report must not block; that of an outer context follows. A chain reports a failure only
// if no further member may answer.
func OnSetback(ctx context.Context, report func(error)) context.Context {
	return reportingTo(ctx, func(failure error) {
		report(failure)
		reportSetback(ctx, failure)
	})
}

// reportingTo returns a context whose failures are reported to one place only; nil: nowhere.
func reportingTo(ctx context.Context, report func(error)) context.Context {
	return context.WithValue(ctx, setbackKey{}, report)
}

// reportSetback reports a failure to the caller of a question, if that wants to know.
func reportSetback(ctx context.Context, failure error) {
	if report, ok := ctx.Value(setbackKey{}).(func(error)); ok && report != nil {
		report(failure)
	}
}

// inChain returns the context of a question to one member of a chain. Its setbacks are those
// of the chain, together with the failures of the members before it, unless more members may
// answer.
func inChain(ctx context.Context, failed []*Error, more bool) context.Context {
	switch {
	case ctx.Value(setbackKey{}) == nil:
		return ctx
	case more:
		return reportingTo(ctx, nil)
	case len(failed) == 0:
		return ctx
	}
	return reportingTo(ctx, func(err error) {
		if failure, ok := errors.AsType[*Error](err); ok {
			reportSetback(ctx, mostHopeful(append(slices.Clone(failed), failure)))
		}
	})
}
