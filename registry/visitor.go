package registry

import (
	"context"
	"errors"
	"net/http"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/namespace/route"
	"github.com/weirhq/weir/storage"
)

// visitor is the sender of a request, and the rules that hold for it. The zero visitor
// may have everything.
type visitor struct {
	rules     *access.Rules
	presented access.Presented
	identity  *access.Identity // nil: the credentials are not valid

	op   Operation // of the request, for a challenge
	name string    // of its repository, for a challenge
}

// identify finds out who sends a request. The table was loaded before, so that the rules
// are at least as new as it is (see [access.Current.Store]).
//
// The namespace is nil if the request has no name. Where the upstream decides, the header
// Authorization is for the upstream, unless it names an account of the mirror's.
func (h *Handler) identify(r *http.Request, req Request, e *entry, ns *namespace.Namespace) error {
	rules := h.opts.Access.Load()
	if ns == nil && rules.Open() || ns != nil && rules.OpenFor(ns.Key()) {
		return nil
	}
	v := &e.visitor
	v.rules, v.op, v.name = rules, req.Op, req.Name
	v.presented = access.Present(r, h.opts.Proxies)
	if ns != nil && ns.OnBehalf() && !rules.Owns(v.presented.Authorization) {
		v.presented.Authorization = nil
	}
	var err error
	v.identity, err = rules.Identify(r.Context(), v.presented)
	return err
}

// scopeOf returns what a request is for in the words of token services (distribution-spec
// tokens, "Token Scope").
func scopeOf(op Operation, name string) string {
	switch {
	case op == OpCatalog:
		return "registry:catalog:*"
	case name != "":
		return "repository:" + name + ":pull"
	default:
		return ""
	}
}

func (v *visitor) challenge() string {
	return v.rules.Challenge(v.presented, scopeOf(v.op, v.name))
}

func (v *visitor) permit(ctx context.Context, q access.Question) error {
	if v.rules == nil {
		return nil
	}
	return v.rules.Permit(ctx, v.identity, q, v.presented)
}

// unknown returns the error of a name without a block as the sender is told it: the keys of
// blocks from which it may pull nothing are none of its business.
func (v visitor) unknown(ctx context.Context, err error) error {
	noRoute, ok := errors.AsType[*route.UnknownError](err)
	if !ok || v.rules == nil {
		return err
	}
	return noRoute.Telling(func(key string) bool { return v.sees(ctx, storage.RepoID{Namespace: key}) })
}

// sees reports whether a list may tell the sender of a repository.
func (v *visitor) sees(ctx context.Context, repo storage.RepoID) bool {
	return v.rules == nil || v.rules.Shows(ctx, v.identity, repo.Namespace, repo.Name, v.presented)
}

// user returns the name of the sender for the log, or "" without one.
func (v *visitor) user() string {
	if v.identity == nil || v.identity.Anonymous {
		return ""
	}
	return v.identity.Name()
}

// questionOf returns a request in the terms of access rules. Canonical is the name of its
// repository, with the key of the namespace, which is nil if the request has no name.
func questionOf(req Request, ns *namespace.Namespace, repo, canonical string) access.Question {
	q := access.Question{Action: actionOf(req.Op), Name: repo, Reference: req.Reference.String(), Digest: req.Digest}
	if ns != nil {
		// One repository has one name in the rules, also if the client sends ns or the
		// short name of an image of Docker Hub.
		q.Block, q.Namespace = ns.Key(), canonical
		q.ByUpstream = ns.OnBehalf()
	}
	if req.Op == OpReferrers {
		q.ArtifactType = req.Query.Get("artifactType")
	}
	return q
}

func actionOf(op Operation) access.Action {
	switch op {
	case OpPing:
		return access.GetVersion
	case OpCatalog:
		return access.ListCatalog
	case OpBlob:
		return access.GetBlob
	case OpTags:
		return access.ListTags
	case OpReferrers:
		return access.GetReferrers
	case OpToken:
		return access.GetToken
	default: // a write is refused to all. Clients that may not pull do not learn why
		return access.GetManifest
	}
}

// deniedToWire returns the answer to a client that the rules refuse, or nil for any other
// error. A client with valid credentials gets no 401, at which it would ask its user for
// the password again.
func (h *Handler) deniedToWire(e *entry, err error) *Error {
	if _, ok := errors.AsType[*access.CredentialsError](err); ok {
		return &Error{
			Status: http.StatusUnauthorized, Code: "UNAUTHORIZED", Challenge: e.visitor.challenge(),
			Message: "the credentials are not valid. Log in again",
		}
	}
	if _, ok := errors.AsType[*access.BusyError](err); ok {
		return &Error{
			Status: http.StatusServiceUnavailable, Code: "UNAVAILABLE", RetryAfter: loginRetry,
			Message: "too many clients log in at once. Try again in a moment",
		}
	}
	if _, ok := errors.AsType[*access.IssuerError](err); ok {
		return &Error{
			Status: http.StatusServiceUnavailable, Code: "UNAVAILABLE", RetryAfter: issuerRetry,
			Message: "the token cannot be verified now, since the keys of its issuer cannot be read. Try again in a moment",
		}
	}
	denied, ok := errors.AsType[*access.DeniedError](err)
	switch {
	case !ok:
		return nil
	case denied.Layer == access.LayerImages: // for everyone
		return &Error{Status: http.StatusNotFound, Code: "NAME_UNKNOWN", Message: h.opts.Explain(e.ns, err)}
	case denied.Anonymous:
		return &Error{
			Status: http.StatusUnauthorized, Code: "UNAUTHORIZED", Challenge: e.visitor.challenge(),
			Message: h.opts.Explain(e.ns, err),
		}
	default:
		return &Error{Status: http.StatusForbidden, Code: "DENIED", Message: h.opts.Explain(e.ns, err)}
	}
}
