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
	// upstreams is the Authorization for the upstream where that decides, of which the mirror
	// knows nothing.
	upstreams []string
	// guess and refused are set where the upstream decides, if the credentials are the mirror's
	// and not valid (see [access.Beside]).
	guess, refused error

	op   Operation // of the request, for a challenge
	name string    // of its repository, for a challenge
}

// identify identifies the sender of a request. The table was loaded before, so that the rules
// are at least as new as it is (see [access.Current.Store]).
//
// The namespace is nil if the request has no name. Where the upstream decides, the header
// Authorization is for the upstream, unless it is for the mirror.
func (h *Handler) identify(r *http.Request, req Request, e *entry, ns *namespace.Namespace) (err error) {
	v, beside := &e.visitor, ns != nil && ns.OnBehalf()
	if beside {
		v.upstreams = access.HeaderOf(r)
	}
	rules := h.opts.Access.Load()
	if ns == nil && rules.Open() || ns != nil && rules.OpenFor(ns.Key()) {
		return nil
	}
	v.rules, v.op, v.name = rules, req.Op, req.Name
	v.presented = access.Present(r, h.opts.Proxies.Load())
	if !beside {
		v.identity, err = rules.Identify(r.Context(), v.presented)
		return err
	}
	sender, err := rules.IdentifyBeside(r.Context(), v.presented, h.opts.Grants)
	v.identity, v.upstreams, v.guess, v.refused = sender.Identity, sender.Upstreams, sender.Guess, sender.Refused
	if v.guess != nil || v.refused != nil || len(v.upstreams) > 0 {
		v.presented.Authorization = nil
	}
	return err
}

// permitBeside is permit for a namespace in which the upstream decides. The log says that a
// password of the mirror's was wrong, the answer does not.
func (v *visitor) permitBeside(ctx context.Context, q access.Question) error {
	denied := v.permit(ctx, q)
	if wrong := v.wrong(nil); denied != nil && wrong != nil {
		return &quietError{denied, wrong}
	}
	return denied
}

// wrong returns why credentials of the mirror's are not valid, or else another cause.
func (v *visitor) wrong(other error) error {
	switch {
	case v.refused != nil:
		return v.refused
	case v.guess != nil:
		return v.guess
	default:
		return other
	}
}

// quietError is a failure about which the log says more than the answer.
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

// unknown returns the error of a name without a block as the sender may see it: the keys of
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
func (v *visitor) user() string { return v.who().String() }

// who returns the parts of the name of the sender, none without one.
func (v *visitor) who() access.Name {
	if v.identity == nil || v.identity.Anonymous {
		return access.Name{}
	}
	return v.identity.Who()
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
	switch req.Op {
	case OpReferrers:
		q.ArtifactType = req.Query.Get("artifactType")
	case OpTags, OpCatalog:
		q.Page = access.Page{N: req.Query.Get("n"), Last: req.Query.Get("last")}
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
			Message: "too many clients are logging in at once. Try again in a moment",
		}
	}
	if _, ok := errors.AsType[*access.IssuerError](err); ok {
		return &Error{
			Status: http.StatusServiceUnavailable, Code: "UNAVAILABLE", RetryAfter: issuerRetry,
			Message: "the token cannot be verified at the moment, because the keys of its issuer cannot be read. Try again in a moment",
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
