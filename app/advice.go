package app

import (
	"errors"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/upstream"
)

// explain returns the sentence that a client is told about a failure of its
// request to a namespace. The namespace is nil if the name belongs to none.
func explain(ns *namespace.Namespace, err error) string {
	failed, isUpstream := errors.AsType[*upstream.Error](err)
	switch {
	case isUpstream && ns != nil:
		return failed.Explain(ns.UpstreamKey)
	case errors.Is(err, storage.ErrCorrupt):
		return "the bytes do not match their digest: what the upstream stores, or a proxy before it, is broken"
	default:
		return err.Error()
	}
}

// advised returns the text of an error for the operator, with advice.
func advised(err error) string { return err.Error() }
