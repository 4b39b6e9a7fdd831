package registry

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/upstream"
)

// In some namespaces the rights of each client at the upstream decide
// (namespace.Spec.OnBehalf). There the Authorization of a request is for the upstream: a
// token of ours, which holds what GET /token got for the client's password (token.go), the
// password itself, or a token that the client got from the upstream. It says nothing about
// the client's identity towards the mirror, unless it names one of the mirror's accounts.

// anonymousID is the ID of clients without a credential. The names of credentials are longer.
const anonymousID = "anonymous"

// errOtherGrant refuses a token of ours that is not for the upstream of the request. A new
// one may be.
var errOtherGrant = &Error{
	Status: http.StatusUnauthorized, Code: "UNAUTHORIZED",
	Message: "the token is not valid for this repository, or it has expired. Request a new one",
}

// answerOnBehalf answers a request in a namespace where the rights of clients decide.
func (h *Handler) answerOnBehalf(w http.ResponseWriter, r *http.Request, req Request, x *transaction, ns *namespace.Namespace, repo string) error {
	e, p := &x.entry, &x.pull
	if err := e.visitor.permitBeside(r.Context(), questionOf(req, ns, repo, e.repository)); err != nil {
		return err
	}
	*p = pull{ctx: r.Context(), w: w, r: r, req: req, ns: ns, repo: repo, entry: e, opts: &h.opts, copier: &h.copier}
	if req.Op == OpWrite {
		return p.answer() // it is refused, whatever the credentials are
	}
	if e.visitor.refused != nil {
		return h.notAccepted(r, req, e.visitor.refused)
	}
	ctx, err := h.onBehalf(r.Context(), e.visitor.upstreams, ns, repo)
	if err == nil {
		p.ctx = ctx
		if err = p.answer(); err != nil {
			h.noteRefusal(ctx, ns, repo, err)
		}
	}
	if err == nil {
		return nil
	}
	refused, isUpstream := errors.AsType[*upstream.Error](err)
	// Without rules the mirror has no accounts, and the client may know all that there is.
	if isUpstream && refused.Class == upstream.ClassDenied && refused.Status == http.StatusUnauthorized && e.visitor.rules != nil && hasPassword(r) {
		return h.notAccepted(r, req, e.visitor.wrong(err))
	}
	return h.challenged(r, req, ns, err)
}

// onBehalf returns the context of a request with its client's own credential for the upstream
// of a namespace, as an Authorization header shows it. A password that the upstream refused
// within the last minute is refused without a request: upstreams lock accounts out.
func (h *Handler) onBehalf(ctx context.Context, header []string, ns *namespace.Namespace, repo string) (context.Context, error) {
	place := ns.Place()
	shown, err := h.opts.Grants.Show(header, ns.Key(), place.String())
	switch {
	case errors.Is(err, access.ErrGrant):
		return nil, errOtherGrant
	case err == nil && shown.HasPassword:
		err = h.exchanges.refusalOf(shown.ID, place, repo, true)
	case shown.ID == "":
		shown.ID = anonymousID
	}
	if err != nil {
		return nil, err
	}
	return upstream.OnBehalf(ctx, concealed(shown)), nil
}

// concealed is a client's credential for an upstream, which stays in the header of its
// request until the upstream is asked.
type concealed access.Shown

func (c concealed) Client() string { return c.ID }

func (c concealed) Reveal() upstream.Credential {
	grant := access.Shown(c).Reveal()
	return upstream.Credential{ID: c.ID, Username: grant.Username, Password: grant.Password, Token: grant.Token}
}

// noteRefusal remembers that an upstream refused the password of a request.
func (h *Handler) noteRefusal(ctx context.Context, ns *namespace.Namespace, repo string, err error) {
	credential, _ := upstream.CredentialOf(ctx)
	failed, ok := errors.AsType[*upstream.Error](err)
	// A registry that answers 403 knows the account, which may get the right at any time.
	if ok && credential.Password != "" && failed.Status == http.StatusUnauthorized && !failed.NotAsked {
		h.exchanges.refuse(credential, ns.Place(), repo, true, err)
	}
}

// password returns the credential of a client that sends a username and a password.
func (h *Handler) password(basic access.Credentials) upstream.Credential {
	return upstream.Credential{
		ID:       h.opts.Grants.Name(basic.User, basic.Password, ""),
		Username: basic.User, Password: basic.Password,
	}
}

// hasGrant reports whether a request shows a valid token of the mirror's.
func (h *Handler) hasGrant(r *http.Request) bool {
	shown, err := access.ParseAuthorization(r.Header["Authorization"])
	if err != nil || !access.IsGrant(shown.Bearer) {
		return false
	}
	_, err = h.opts.Grants.Open(shown.Bearer)
	return err == nil
}

// hasPassword reports whether a request shows a username and a password.
func hasPassword(r *http.Request) bool {
	shown, err := access.ParseAuthorization(r.Header["Authorization"])
	return err == nil && shown.Basic.User != "" && !access.IsGrant(shown.Basic.Password)
}

// ping answers /v2/ if the rights of clients decide in a namespace. Docker decides by the
// answer whether it sends a credential at all, so a client without one is asked for it.
func (h *Handler) ping(r *http.Request, table *namespace.Table) error {
	shown, err := access.ParseAuthorization(r.Header["Authorization"])
	// Some clients can send a token as a password only.
	token := cmp.Or(shown.Bearer, shown.Basic.Password)
	switch {
	case err != nil:
		return err
	case access.IsGrant(token):
		if _, err := h.opts.Grants.Open(token); err != nil {
			return errOtherGrant
		}
		return nil
	case shown.Basic.User != "":
		return h.login(r, table, r.URL.Query().Get("ns"), h.password(shown.Basic))
	case shown.Bearer == "":
		return &Error{Status: http.StatusUnauthorized, Code: "UNAUTHORIZED", Message: "log in to this mirror with an account of the registry behind it"}
	default:
		return nil // a token of an upstream, which judges it with the first pull
	}
}

// challenged returns the answer to a failure in a namespace where the rights of clients
// decide. A refusal that another credential may change leads the client to the token
// service (RFC 9110 section 11.6.1). The namespace is nil for a request without a name.
func (h *Handler) challenged(r *http.Request, req Request, ns *namespace.Namespace, err error) error {
	refused, isUpstream := errors.AsType[*upstream.Error](err)
	_, invalid := errors.AsType[*access.CredentialsError](err)
	wire, isWire := errors.AsType[*Error](err)
	answer := Error{Status: http.StatusUnauthorized, Code: "UNAUTHORIZED", Challenge: h.bearer(r, req)}
	switch {
	case isWire && wire.Status == http.StatusUnauthorized:
		answer.Message = wire.Message
	case invalid:
		answer.Message = "the credentials are not valid. Log in again"
	// A registry that answers 403 knows the account, and so does one that denies a token.
	case isUpstream && refused.Class == upstream.ClassDenied && (refused.Status == http.StatusUnauthorized || r.Header.Get("Authorization") == ""):
		answer.Message = h.opts.Explain(ns, err)
	default:
		return err
	}
	return &answer
}

// notAccepted returns the answer to a password that is not valid, or that opens nothing. Its
// words do not tell which of both it is, nor if its name is one of the mirror's accounts.
func (h *Handler) notAccepted(r *http.Request, req Request, cause error) error {
	return &quietError{cause: cause, told: &Error{
		Status: http.StatusUnauthorized, Code: "UNAUTHORIZED", Challenge: h.bearer(r, req),
		Message: "these credentials do not give access to this repository. Check the username, the password and the rights of the account",
	}}
}

// onBehalfOf returns the namespaces in which the rights of clients decide.
func onBehalfOf(table *namespace.Table) []*namespace.Namespace {
	return slices.DeleteFunc(slices.Clone(table.Namespaces()), func(ns *namespace.Namespace) bool { return !ns.OnBehalf() })
}

// bearer returns the challenge that leads a client to the token service of this mirror
// (distribution token specification). The repository is empty for a login.
func (h *Handler) bearer(r *http.Request, req Request) string {
	realm := h.opts.Access.Load().TokenURL(access.Present(r, h.opts.Proxies.Load()))
	// The name alone does not lead to the registry.
	if req.NS != "" {
		realm += "?" + url.Values{"ns": {req.NS}}.Encode()
	}
	scope := ""
	if req.Name != "" {
		scope = "repository:" + req.Name + ":pull"
	}
	return access.BearerChallenge(realm, scope)
}
