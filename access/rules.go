package access

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
)

// Options are what [Rules] are made of.
type Options struct {
	// Anonymous lets requests without credentials in. Without any rule they are let in,
	// and the rules are open.
	Anonymous bool
	Realm     string // of challenges, for people
	Accounts  []Account
	Issuers   []*Issuer
	Tokens    TokenOptions
	Groups    map[string][]Subject // members by the name of the group
	Policy    *Policy              // of all requests; nil: none
	Webhook   string               // that is asked about all requests; empty: none
	Webhooks  []Webhook
	Blocks    []Block // all that there are: no request for another one is permitted
	Metrics   *Metrics
}

// Block holds the rules of one repository block.
type Block struct {
	Key    string
	Images []string  // globs on the names below the key that exist; empty: all
	Allow  []Subject // empty: every identity
	Policy *Policy   // asked after that of all requests; nil: none
	// Webhook is asked instead of that of all requests; nil: that one, "": none.
	Webhook *string
}

// Rules are the whole of a configuration's access rules. All methods may be called
// concurrently.
type Rules struct {
	open     bool
	realm    string
	accounts *accounts
	issuers  map[string]*Issuer // by name
	tokens   *tokens            // nil: there is no token service
	memory   memory
	groups   groups
	layers   *layers
	metrics  *Metrics
	// readsAddress is set if the address of a client can make a difference: to a group, a
	// list, a policy or a webhook. Then identities have one.
	readsAddress bool

	inForce context.Context // ends when other rules take the place of these
	replace context.CancelFunc
}

// New returns the rules of a configuration. It returns an error for a name that two users
// have, and for a rule that cannot be used.
func New(opts Options) (*Rules, error) {
	r := &Rules{
		realm: opts.Realm, groups: newGroups(opts.Groups), metrics: opts.Metrics, accounts: newAccounts(opts.Accounts),
		issuers: make(map[string]*Issuer, len(opts.Issuers)), tokens: newTokens(opts.Tokens),
	}
	r.inForce, r.replace = context.WithCancel(context.Background())
	var err error
	if r.memory, err = newMemory(); err != nil {
		return nil, err
	}
	for user, account := range r.accounts.byUser {
		account.tag = r.memory.tags.of("account", user)
	}
	for _, issuer := range opts.Issuers {
		r.issuers[issuer.opts.Name] = issuer
	}
	if len(r.accounts.byUser) != len(opts.Accounts) {
		return nil, fmt.Errorf("two accounts have the same user")
	}
	if r.layers, err = newLayers(opts, r.memory.tags); err != nil {
		return nil, err
	}
	r.readsAddress = r.layers.readAddress() || r.groups.readAddress()
	r.open = len(opts.Accounts) == 0 && len(opts.Issuers) == 0 && !r.layers.lock()
	return r, nil
}

// Open reports whether nothing is locked: every request is permitted, whatever
// credentials it has, and asking either question is a waste.
func (r *Rules) Open() bool { return r.open }

// InForce returns a context that ends when [Current] has other rules. An answer that lasts longer than
// a moment, such as a stream of events, ends with it, and its client sends its credentials again.
func (r *Rules) InForce() context.Context { return r.inForce }

// OpenFor is Open for a request that a block answers. A block that a reload has removed, in the
// middle of the request, may have been a locked one. Rules without any block know none, and
// are open for all.
func (r *Rules) OpenFor(block string) bool {
	return r.open && (len(r.layers.blocks) == 0 || r.layers.blocks[block] != nil)
}

// Identify returns the sender of a request. A certificate and a password must both be
// valid, and the identity carries both.
//
// It returns a *[CredentialsError] if there are credentials that are not valid, also if
// the request needs none, a *[BusyError] if too many clients log in, an *[IssuerError] if
// the keys of a token's issuer cannot be read, and the cause of ctx if that ends before.
func (r *Rules) Identify(ctx context.Context, p Presented) (*Identity, error) {
	shown, err := r.credentials(ctx, p)
	if err == nil {
		return r.counted(shown, p), nil
	}
	r.countFailure(ctx, shown.method, err)
	return nil, err
}

// counted is identityOf for an identification that is counted.
func (r *Rules) counted(shown credentials, p Presented) *Identity {
	identity := r.identityOf(shown, p)
	// A token of Weir's own may be that of a client without credentials.
	if identity.Certificate != nil && shown.account == nil && shown.oidc == nil {
		shown.method = MethodCertificate
	}
	r.metrics.identify(shown.method, success)
	return identity
}

// countFailure counts credentials that could not be verified.
func (r *Rules) countFailure(ctx context.Context, method Method, err error) {
	if _, crowd := errors.AsType[*BusyError](err); crowd {
		r.metrics.identify(method, busy)
	} else if ctx.Err() == nil { // a client that has left is neither
		r.metrics.identify(method, failure)
	}
}

// identityOf returns the identity of verified credentials, and of the certificate and the
// address that they came with. Most requests with the same credentials have one identity.
func (r *Rules) identityOf(shown credentials, p Presented) *Identity {
	from, last := sender{credentials: shown.tag}, shown.last
	if r.readsAddress {
		from.address = p.Address()
	}
	certificate := r.memory.certified(p.Certificates)
	if certificate != nil {
		from.certificate, last = certificate.tag, &certificate.last
	}
	if identity := last.Load(); identity != nil && identity.sender == from {
		return identity
	}
	identity := &Identity{Address: from.address, OIDC: shown.oidc, sender: from}
	if certificate != nil {
		identity.Certificate = certificate.names
	}
	if shown.account != nil {
		identity.ID, identity.User = shown.account.ID, shown.account.User
	}
	identity.Anonymous = identity.User == "" && identity.Certificate == nil && identity.OIDC == nil
	identity.Groups = r.groups.of(identity)
	// Kept with the certificate, the claims of a token would outlive the memory of the token.
	if certificate == nil || identity.OIDC == nil {
		last.Store(identity)
	}
	return identity
}

// credentials verifies those of an Authorization header, unless they were verified within
// the last minute. With an error it returns the method that refused them.
func (r *Rules) credentials(ctx context.Context, p Presented) (credentials, error) {
	var header tag
	switch {
	case len(p.Authorization) == 0:
		return r.memory.nobody, nil
	// No other header can be valid.
	case len(p.Authorization) == 1 && len(p.Authorization[0]) <= maxAuthorization:
		header = r.memory.tags.of(p.Authorization[0])
		if known, ok, err := r.memory.remembered(header); ok {
			return known, err
		}
	}
	found, err := r.verifyHeader(ctx, p)
	if err != nil {
		return found.credentials, err
	}
	return r.memory.remember(header, found), nil
}

// verifyHeader verifies the credentials of an Authorization header. With an error it returns
// the method that refused them.
func (r *Rules) verifyHeader(ctx context.Context, p Presented) (proven, error) {
	shown, err := ParseAuthorization(p.Authorization)
	if err != nil {
		return proven{credentials: credentials{method: MethodUnknown}}, err
	}
	token := shown.Bearer
	// Some clients, such as the kubelet, can send a token as a password only. The user
	// beside it is no one's word, and does not count.
	if len(r.issuers) > 0 && isJWT(shown.Basic.Password) && !isOwn(shown.Basic.Password) {
		token = shown.Basic.Password
	}
	if token != "" {
		return r.verify(ctx, token)
	}
	account, err := r.accounts.login(ctx, shown.Basic, p.Address())
	if err != nil {
		return proven{credentials: credentials{method: MethodPassword}}, err
	}
	// Only one password is right, so this is its verdict.
	return proven{credentials: credentials{method: MethodPassword, account: account}, until: account.verdict.Load().until}, nil
}

// knowsToken reports whether a token claims to be of the mirror or of one of its issuers.
func (r *Rules) knowsToken(token string) bool {
	if !isJWT(token) {
		return false
	}
	name := issuerOf(token)
	for _, issuer := range r.issuers {
		if issuer.opts.URL == name {
			return true
		}
	}
	return isOwn(token)
}

// Permit reports whether an identity may have an answer, with nil. It returns a
// *[DeniedError] otherwise, and the cause of ctx if that ends before a webhook has
// answered. The request is for webhooks.
func (r *Rules) Permit(ctx context.Context, i *Identity, q Question, p Presented) error {
	refused, err := r.layers.judge(ctx, i, q, p)
	if err != nil || refused == nil {
		return err
	}
	r.metrics.deny(q.Block, refused.layer)
	return &DeniedError{Layer: refused.layer, Anonymous: i.Anonymous, Who: i.Name(), Action: q.Action, Block: q.Block, Name: q.Name, Cause: refused.cause}
}

// Shows reports whether a list may tell an identity of a repository: it may pull from
// there. An empty name stands for the block as a whole, so that its namespace ends with a
// slash. The question has no reference, so a rule that reads one hides the repository.
func (r *Rules) Shows(ctx context.Context, i *Identity, block, name string, p Presented) bool {
	return r.Tells(ctx, i, Question{Action: GetManifest, Block: block, Name: name, Namespace: block + "/" + name}, p)
}

// Tells is Permit for an answer that only tells of the content that the question is about, such as
// a list of cached tags. One answer may ask a thousand questions, so it counts no refusal.
func (r *Rules) Tells(ctx context.Context, i *Identity, q Question, p Presented) bool {
	q.listed = true
	refused, err := r.layers.judge(ctx, i, q, p)
	return err == nil && refused == nil
}

// Challenge returns the value of WWW-Authenticate for a client without valid credentials
// (RFC 9110, section 11.6.1). The scope is what the client asked for, in the words of
// token services; it may be empty.
func (r *Rules) Challenge(p Presented, scope string) string {
	if r.tokens == nil {
		return r.BasicChallenge()
	}
	return BearerChallenge(r.TokenURL(p), scope)
}

// BearerChallenge returns the value of WWW-Authenticate that leads a client to a token service
// (distribution-spec tokens, "How to authenticate"). The scope may be empty.
func BearerChallenge(realm, scope string) string {
	challenge := "Bearer realm=" + quoted(realm) + ",service=" + quoted(TokenService)
	if scope != "" {
		challenge += ",scope=" + quoted(scope)
	}
	return challenge
}

// TokenURL returns the address of the token service, as the sender of a request reaches it.
func (r *Rules) TokenURL(p Presented) string {
	if r.tokens != nil && r.tokens.realm != "" {
		return r.tokens.realm
	}
	return p.Scheme() + "://" + p.Request.Host + "/token"
}

// BasicChallenge is the Challenge of the token service itself, and of a configuration
// without one.
func (r *Rules) BasicChallenge() string {
	// Where no password can be valid, Basic would have clients send the one of another
	// registry. The header must be there anyway, with a scheme that none knows.
	if len(r.accounts.all) == 0 && len(r.issuers) == 0 {
		return "Certificate realm=" + quoted(r.realm)
	}
	return "Basic realm=" + quoted(r.realm)
}

// quoted returns a text as a quoted string (RFC 9110, section 5.6.4).
func quoted(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}

// Current holds the rules in force.
type Current struct{ rules atomic.Pointer[Rules] }

// Unrestricted returns rules that are open.
func Unrestricted() *Current {
	c := &Current{}
	inForce, replace := context.WithCancel(context.Background())
	c.rules.Store(&Rules{open: true, layers: &layers{}, inForce: inForce, replace: replace})
	return c
}

// Load returns the rules in force.
func (c *Current) Load() *Rules { return c.rules.Load() }

// Store puts rules in force. It must be called before the table of the same
// configuration is put in force, and a request must load them the other way round: a
// request then meets rules that are at least as new as its table.
func (c *Current) Store(r *Rules) {
	r.metrics.setBlocks(slices.Collect(maps.Keys(r.layers.blocks)))
	// Requests that met the last rules may still ask their webhooks.
	if last := c.rules.Swap(r); last != nil {
		last.replace()
		last.layers.close()
	}
}
