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
	// refused is set where the upstream decides, if the credentials name an account of the
	// mirror and are not valid. The identity is then that of the request without them.
	refused error
	// upstreams is the Authorization for the upstream, of which the mirror knows nothing.
	upstreams []string

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
	v.presented = access.Present(r, h.opts.Proxies.Load())
	if ns != nil && ns.OnBehalf() && !rules.Owns(v.presented.Authorization) {
		v.upstreams, v.presented.Authorization = v.presented.Authorization, nil
	}
	var err error
	v.identity, err = rules.Identify(r.Context(), v.presented)
	if _, invalid := errors.AsType[*access.CredentialsError](err); !invalid || ns == nil || !ns.OnBehalf() {
		return err
	}
	v.refused, v.presented.Authorization = err, nil
	v.identity, err = rules.Identify(r.Context(), v.presented)
	return err
}

// permitBeside is permit for a namespace in which the upstream decides. Accounts of the
// mirror's own stand beside those of the upstream there, and a guess must not tell which
// names they have: an answer without the upstream is the same for each name, after the same
// time.
func (v *visitor) permitBeside(ctx context.Context, q access.Question) error {
	denied := v.permit(ctx, q)
	if denied == nil {
		return nil
	}
	if v.refused != nil {
		return &quietError{denied, v.refused}
	}
	if shown, err := access.ParseAuthorization(v.upstreams); err != nil || shown.Basic.User == "" {
		return denied
	}
	presented := v.presented
	presented.Authorization = v.upstreams
	if _, err := v.rules.Identify(ctx, presented); err != nil {
		if _, invalid := errors.AsType[*access.CredentialsError](err); !invalid {
			return err // too many log in, or the client has left
		}
	}
	return denied
}

// quietError is a failure of which the log tells more than the client is told.
type quietError struct {
	told  error
	cause error
}

func (e *quietError) Error() string { return e.cause.Error() }

func (e *quietError) Unwrap() error { return e.told }

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
		return &Error{Status: http.StatusNotFound, Code: "NAME_UNKNOWN", Message: h.opts.Explain(e.ns, denied)}
	case denied.Anonymous:
		return &Error{
			Status: http.StatusUnauthorized, Code: "UNAUTHORIZED", Challenge: e.visitor.challenge(),
			Message: h.opts.Explain(e.ns, denied),
		}
	default:
		return &Error{Status: http.StatusForbidden, Code: "DENIED", Message: h.opts.Explain(e.ns, denied)}
	}
}
