package app

import (
	"errors"
	"fmt"
	"strings"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/evict"
	"github.com/weirhq/weir/upstream"
)

// explain returns the sentence that a client is told about a failure of its
// request to a namespace. The namespace is nil if the name belongs to none.
func explain(ns *namespace.Namespace, err error) string {
	failed, isUpstream := errors.AsType[*upstream.Error](err)
	_, isOffline := errors.AsType[*namespace.OfflineError](err)
	switch {
	case isUpstream && ns != nil:
		return ExplainUpstream(failed, func(host string) string { return upstreamKey(ns, host) })
	case isOffline && ns != nil:
		return fmt.Sprintf("%v. Remove offline = true from repository.%q to fetch it from %s", err, ns.Key(), ns.FirstUpstream())
	case errors.Is(err, storage.ErrCorrupt):
		return err.Error() + ": what the upstream stores, or a proxy before it, is broken"
	default:
		return err.Error()
	}
}

// upstreamKey returns the configuration's name of the upstream with a host, or the
// name of all upstreams if several have that host or none has.
func upstreamKey(ns *namespace.Namespace, host string) string {
	key, found := fmt.Sprintf("repository.%q.upstream", ns.Key()), -1
	for i, h := range ns.UpstreamHosts() {
		if !strings.EqualFold(h, host) {
			continue
		}
		if found >= 0 {
			return key // the host does not tell which of the two it is
		}
		found = i
	}
	if found < 0 {
		return key
	}
	return fmt.Sprintf("%s[%d]", key, found)
}

// advised returns the text of an error for the operator: the cause, then a sentence
// about the remedy if there is one.
func advised(err error) string {
	if remedy := remedyOf(err); remedy != "" {
		return err.Error() + ". " + remedy
	}
	return err.Error()
}

// remedyOf returns the sentence that tells an operator what to change, with the
// keys of the configuration. It is empty if nothing can be changed.
func remedyOf(err error) string {
	if _, done := errors.AsType[advisedError](err); done {
		return "" // the text has it already
	}
	// A failed deletion keeps the store full: the remedy for its cause comes first.
	if remedy := filesystemRemedy(err); remedy != "" {
		return remedy
	}
	if full, ok := errors.AsType[*evict.FullError](err); ok {
		switch full.Reason {
		case evict.InUse:
			return "Set blob_store.fs.max_size to more if this happens often."
		case evict.TooSlow:
			return "Check the speed of the disk, or set blob_store.fs.max_size to more."
		case evict.CannotDelete:
			return "Check that blob_store.fs.root_dir is writable."
		}
	}
	return ""
}
