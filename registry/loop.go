package registry

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weirhq/weir/internal/via"
	"github.com/weirhq/weir/namespace"
)

// LoopError says that a request has come back to the mirror that sent it, or has
// passed that many mirrors that it must be in a loop.
type LoopError struct {
	Namespace string // key of the namespace whose upstream leads back; "" if it is not known
	Passed    int    // mirrors
}

func (e *LoopError) Error() string {
	switch {
	case e.Passed > via.MaxTrail:
		return fmt.Sprintf("the request has passed %d mirrors, so their upstreams lead back to each other", e.Passed)
	case e.Namespace == "":
		return "an upstream leads back to this mirror"
	default:
		return "the upstream of " + e.Namespace + " leads back to this mirror"
	}
}

// endLoop returns a LoopError for a request that would go round for ever. host is
// that of the request's URL.
func (h *Handler) endLoop(trail via.Trail, host string, req Request, table *namespace.Table) error {
	switch {
	case len(trail) == 0: // a client's request, nearly always
		return nil
	case h.opts.ID != "" && slices.Contains(trail, h.opts.ID):
		loop := &LoopError{Passed: len(trail)}
		// The sender is not identified yet, and may be a client that has the ID from an
		// earlier answer. Then the mirror or client at which the loop began has to find the
		// block, by its own request.
		if h.opts.Access == nil || h.opts.Access.Load().Open() {
			loop.Namespace = leadsBack(host, req, table)
		}
		return loop
	case len(trail) > via.MaxTrail:
		return &LoopError{Passed: len(trail)}
	default:
		return nil
	}
}

// leadsBack returns the key of the namespace whose upstream has the host by which the
// request came back. Behind a proxy with another host, it is the namespace that
// would go on asking.
func leadsBack(host string, req Request, table *namespace.Table) string {
	asking, _, err := table.Resolve(req.NS, req.Name)
	if err != nil {
		asking = nil
	}
	for _, ns := range append([]*namespace.Namespace{asking}, table.Namespaces()...) {
		if ns != nil && slices.ContainsFunc(ns.UpstreamHosts(), func(h string) bool { return strings.EqualFold(h, host) }) {
			return ns.Key()
		}
	}
	if asking == nil {
		return ""
	}
	return asking.Key()
}
