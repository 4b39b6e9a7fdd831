package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/internal/bounded"
	"github.com/weirhq/weir/internal/turns"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
)

const (
	tokenPath = "/token"
	// maxGrantLife bounds the life of a token of ours. A client asks for a new one then, so
	// a password that was changed at the upstream ends that soon.
	maxGrantLife = 5 * time.Minute
	// minGrantLife is the shortest life of a token in its answer: clients take less for a
	// minute (distribution token specification).
	minGrantLife = time.Minute
	// maxTokenForm bounds the body of a POST. It holds a user, a password and a few scopes.
	maxTokenForm = 16 << 10
	// maxExchanges bounds the exchanges of one registry that run at once: each is a request
	// upstream that clients without an account can cause.
	maxExchanges = 32
	// maxWaitingExchanges bounds those that wait beside them, about a second of work of most
	// registries, and maxWaitingOfNetwork those of one network, which may be a whole fleet.
	maxWaitingExchanges = 256
	maxWaitingOfNetwork = 128
	// maxExchangeWait is how long one waits: clients give up soon after.
	maxExchangeWait = 10 * time.Second
	// refusedFor is how long a refused credential is refused without a request upstream.
	// Upstreams lock accounts and addresses out after some wrong passwords.
	refusedFor = time.Minute
	maxRefused = 4096
)

// exchanges are the requests of clients for tokens.
type exchanges struct {
	mu     sync.Mutex
	queues map[string]*exchangeQueue // by the registry: one that hangs must not stop logins at others

	refused *bounded.Cache[exchange, refusal]
	ends    atomic.Pointer[time.Time] // when the last of the refusals ends; nil: there was none
}

// exchangeQueue are the exchanges of one registry, in which networks take turns: guessers
// must not keep the logins of others out.
type exchangeQueue struct {
	*turns.Queue
	users int // that run or wait
}

// exchange is a credential and a repository of a place, or no repository of a registry if the
// credential itself is refused.
type exchange struct {
	credential, place, repository string
	pull                          bool // the refusal is one of a pull, and not of a token
}

type refusal struct {
	err   error
	until time.Time
}

func newExchanges() exchanges {
	return exchanges{
		queues: make(map[string]*exchangeQueue),
		refused: bounded.New(maxRefused, 4<<20, func(e exchange, r refusal) int {
			return len(e.credential) + len(e.place) + len(e.repository) + len(r.err.Error())
		}),
	}
}

// enter begins an exchange at a registry, in turn, until leave is called. It returns
// errManyLogins if too many run or wait there, and the cause of ctx if that ends before.
func (e *exchanges) enter(ctx context.Context, registry string, from netip.Addr) (leave func(), err error) {
	e.mu.Lock()
	queue := e.queues[registry]
	if queue == nil {
		queue = &exchangeQueue{Queue: turns.New(turns.Limits{Running: maxExchanges, Waiting: maxWaitingExchanges, WaitingOfNetwork: maxWaitingOfNetwork})}
		e.queues[registry] = queue
	}
	queue.users++
	e.mu.Unlock()
	done := func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if queue.users--; queue.users == 0 {
			delete(e.queues, registry)
		}
	}
	waiting, cancel := context.WithTimeoutCause(ctx, maxExchangeWait, errManyLogins)
	defer cancel()
	free, err := queue.Enter(waiting, from)
	if errors.Is(err, turns.ErrFull) {
		err = errManyLogins
	}
	if err != nil {
		done()
		return nil, err
	}
	return func() { free(); done() }, nil
}

// refusalOf returns the refusal of a credential, by its ID, within the last minute, or nil: by a registry
// as such, or for a repository of it.
func (e *exchanges) refusalOf(client string, place upstream.Place, repo string, pull bool) error {
	// Mostly none was refused within the last minute, and each pull with a password asks.
	if ends := e.ends.Load(); ends == nil || time.Until(*ends) <= 0 {
		return nil
	}
	for _, key := range []exchange{{client, place.Registry, "", false}, {client, place.String(), repo, pull}} {
		if known, ok := e.refused.Get(key); ok && time.Until(known.until) > 0 {
			return known.err
		}
	}
	return nil
}

// refuse remembers the refusal of a credential. The right of an anonymous client may come at
// any time, and guesses no password.
func (e *exchanges) refuse(c upstream.Credential, place upstream.Place, repo string, pull bool, err error) {
	failed, ok := errors.AsType[*upstream.Error](err)
	if !ok || failed.Class != upstream.ClassDenied || c.Anonymous() {
		return
	}
	key := exchange{c.ID, place.String(), repo, pull}
	if refusesAccount(err) {
		key = exchange{c.ID, place.Registry, "", false}
	}
	about := *failed
	about.Reference = "" // the next request may be about other content
	until := time.Now().Add(refusedFor)
	e.refused.Add(key, refusal{&about, until})
	e.ends.Store(&until)
}

// errManyLogins refuses an exchange while too many run.
var errManyLogins = &Error{
	Status: http.StatusServiceUnavailable, Code: "UNAVAILABLE", RetryAfter: time.Second,
	Message: "too many clients are logging in at once. Try again in a moment",
}

// token answers GET and POST /token: it exchanges a client's credential for what the
// upstream of a repository wants, and seals that into a token for the client (distribution
// token specification, "Requesting a Token"; for POST its OAuth2 variant with
// grant_type=password). Requests for other tokens are those of the mirror's own accounts.
func (h *Handler) token(w http.ResponseWriter, r *http.Request, e *entry) error {
	e.op = OpToken
	table := h.opts.Tables.Load()
	if len(onBehalfOf(table)) == 0 {
		e.holder, e.err = h.opts.Tokens(w, r)
		return nil
	}
	wanted, err := tokenParameters(w, r)
	if err != nil {
		return err
	}
	ns, repo := wantedBy(wanted, table)
	if ns == nil && !h.opts.Access.Load().Open() {
		e.holder, e.err = h.opts.Tokens(w, r)
		return nil
	}
	err = h.giveToken(w, r, e, wanted, ns, repo)
	_, invalid := errors.AsType[*access.CredentialsError](err)
	// A registry that answers 403 knows the account.
	if !invalid && !refusesAccount(err) {
		return err
	}
	return &quietError{cause: e.visitor.wrong(err), told: &Error{
		Status: http.StatusUnauthorized, Code: "UNAUTHORIZED", Challenge: `Basic realm="` + access.TokenService + `"`,
		Message: "the registry does not accept these credentials. Check the username and the password",
	}}
}

// giveToken answers a request for a token for a repository of a namespace in which the
// rights of clients decide or, if that is nil, for a login or for other repositories.
func (h *Handler) giveToken(w http.ResponseWriter, r *http.Request, e *entry, wanted url.Values, ns *namespace.Namespace, repo string) error {
	if r.Method == http.MethodPost {
		var err error
		if r, err = withForm(r, wanted); err != nil {
			return err
		}
	}
	if ns != nil {
		e.found(ns, repo)
		req := Request{Op: OpToken, Name: e.repository}
		if err := h.identify(r, req, e, ns); err != nil {
			return err
		}
		if err := e.visitor.permitBeside(r.Context(), questionOf(req, ns, repo, e.repository)); err != nil {
			return err
		}
		if e.visitor.refused != nil {
			return e.visitor.refused
		}
	}
	header := e.visitor.upstreams
	if ns == nil {
		header = r.Header["Authorization"] // there are no accounts of the mirror's
	}
	credential, err := h.tokenCredential(header)
	if err != nil {
		return err
	}
	if ns == nil {
		// No upstream gets a password that is for other repositories. They need none, since
		// the mirror is open there.
		if isLogin(wanted) {
			if err := h.login(r, h.opts.Tables.Load(), wanted.Get("ns"), credential); err != nil {
				return err
			}
		}
		return h.writeToken(w, access.Grant{ID: credential.ID}, maxGrantLife)
	}
	grant, err := h.exchange(r.Context(), h.opts.Proxies.Load().Address(r), ns, repo, credential)
	if err != nil {
		return err
	}
	life := maxGrantLife
	if !grant.Expires.IsZero() {
		life = min(life, time.Until(grant.Expires))
	}
	return h.writeToken(w, access.Grant{
		Block: ns.Key(), Upstream: ns.Place().String(), ID: grant.ID,
		Username: grant.Username, Password: grant.Password, Token: grant.Token,
	}, life)
}

// refusesAccount reports whether an upstream refuses an account as such.
func refusesAccount(err error) bool {
	failed, ok := errors.AsType[*upstream.Error](err)
	return ok && failed.Class == upstream.ClassDenied && failed.Op == "token" && failed.Status != http.StatusForbidden
}

// unsupported is the answer to a request for a token that cannot be understood.
func unsupported(message string) error {
	return &Error{Status: http.StatusBadRequest, Code: "UNSUPPORTED", Message: message}
}

// tokenParameters reads the parameters of a request for a token: of the query, and of the
// form, which can be read again.
func tokenParameters(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	switch {
	case err != nil:
		return nil, unsupported("the query of the URL does not decode")
	case r.Method == http.MethodGet:
		return query, nil
	case r.Method != http.MethodPost:
		return nil, errMethod
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxTokenForm))
	form, formErr := url.ParseQuery(string(body))
	if err != nil || formErr != nil {
		return nil, unsupported("the form does not decode")
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if form["ns"] == nil {
		form["ns"] = query["ns"]
	}
	form["scope"] = append(form["scope"], query["scope"]...)
	return form, nil
}

// withForm returns a POST for a token with the password of its form as that of its header, so
// that both ways to send it are one from here on.
func withForm(r *http.Request, form url.Values) (*http.Request, error) {
	// A refresh token would be a password that does not expire.
	if form.Get("grant_type") != "password" {
		return nil, unsupported("only grant_type=password is supported")
	}
	r = r.Clone(r.Context())
	r.SetBasicAuth(form.Get("username"), form.Get("password"))
	return r, nil
}

// tokenCredential returns the credential in the Authorization of a request for a token.
func (h *Handler) tokenCredential(header []string) (upstream.Credential, error) {
	shown, err := access.ParseAuthorization(header)
	switch {
	case err != nil:
		return upstream.Credential{}, err
	case shown.Bearer != "", access.IsGrant(shown.Basic.Password):
		return upstream.Credential{}, unsupported("a token request needs a username and a password")
	case shown.Basic.User == "":
		return upstream.Credential{ID: anonymousID}, nil
	default:
		return h.password(shown.Basic), nil
	}
}

// scopesOf returns the scopes of a request for a token. One parameter may have several.
func scopesOf(query url.Values) iter.Seq[string] {
	return strings.FieldsSeq(strings.Join(query["scope"], " "))
}

// wantedBy returns the first repository among the scopes of a request for a token in whose
// namespace the rights of clients decide. A token is for one upstream. The namespace is nil
// if there is none.
func wantedBy(query url.Values, table *namespace.Table) (*namespace.Namespace, string) {
	for scope := range scopesOf(query) {
		kind, rest, _ := strings.Cut(scope, ":")
		// The name of a repository may begin with a host that has a port. A scope without
		// actions, such as repository:localhost:5000/app, names no repository of localhost.
		at := strings.LastIndexByte(rest, ':')
		if kind != "repository" || at < 0 || strings.Contains(rest[at:], "/") || !oci.ValidName(rest[:at]) {
			continue
		}
		ns, repo, err := table.Resolve(query.Get("ns"), rest[:at])
		if err == nil && ns.OnBehalf() {
			return ns, repo
		}
	}
	return nil, ""
}

// isLogin reports whether a request for a token is for no repository, as that of docker login.
// Any scope but one for the whole mirror, such as registry:catalog:*, may come with a password
// for another registry: dockerd with this mirror in registry-mirrors sends the password for
// Docker Hub with repository:library/nginx:pull.
func isLogin(query url.Values) bool {
	for scope := range scopesOf(query) {
		if !strings.HasPrefix(scope, "registry:") {
			return false
		}
	}
	return true
}

// exchange exchanges a client's credential for a token of the upstream of a namespace.
func (h *Handler) exchange(ctx context.Context, from netip.Addr, ns *namespace.Namespace, repo string, c upstream.Credential) (upstream.Grant, error) {
	if err := h.exchanges.refusalOf(c.ID, ns.Place(), repo, false); err != nil {
		return upstream.Grant{}, err
	}
	leave, err := h.exchanges.enter(ctx, ns.Place().Registry, from)
	if err != nil {
		return upstream.Grant{}, err
	}
	defer leave()
	// An earlier one in the queue may have had the same credential.
	if err := h.exchanges.refusalOf(c.ID, ns.Place(), repo, false); err != nil {
		return upstream.Grant{}, err
	}
	grant, err := ns.Grant(upstream.OnBehalf(ctx, c), repo)
	h.exchanges.refuse(c, ns.Place(), repo, false, err)
	return grant, err
}

// login checks a credential that is for no repository yet. With several registries it is
// not known which of them it is for, and the others must not get it: the first pull checks
// it then. Several blocks may mirror one registry. If the client names the host of a registry
// by ns, no other one gets the credential.
func (h *Handler) login(r *http.Request, table *namespace.Table, host string, c upstream.Credential) error {
	candidates := onBehalfOf(table)
	if host != "" {
		candidates = slices.DeleteFunc(candidates, func(ns *namespace.Namespace) bool { return !oci.SameHost(ns.Host(), host) })
	}
	if c.Anonymous() || len(candidates) == 0 || slices.ContainsFunc(candidates, func(ns *namespace.Namespace) bool {
		return ns.Place().Registry != candidates[0].Place().Registry
	}) {
		return nil
	}
	_, err := h.exchange(r.Context(), h.opts.Proxies.Load().Address(r), candidates[0], "", c)
	return err
}

// writeToken sends a grant as a token.
func (h *Handler) writeToken(w http.ResponseWriter, grant access.Grant, life time.Duration) error {
	// Whole seconds, so that the length of the answer does not depend on the moment.
	now := time.Now().Truncate(time.Second)
	grant.Expires = now.Add(life)
	token, err := h.opts.Grants.Seal(grant)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store") // RFC 6749 section 5.1
	writeJSON(w, http.StatusOK, "application/json", struct {
		Token       string    `json:"token"`
		AccessToken string    `json:"access_token"`
		ExpiresIn   int       `json:"expires_in"`
		IssuedAt    time.Time `json:"issued_at"`
	}{token, token, int(max(life, minGrantLife).Seconds()), now.UTC()})
	return nil
}
