package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/forwarded"
)

// translateAccess turns the access rules of a validated configuration into those of package access.
func translateAccess(cfg *config.Config, issuers []*access.Issuer, metrics *access.Metrics) (*access.Rules, error) {
	accounts, err := cfg.Auth.ReadHtpasswd()
	if err != nil { // the file has changed since it was validated
		return nil, fmt.Errorf("auth.htpasswd: %w", err)
	}
	for _, one := range cfg.Auth.Identities {
		hash, err := access.ParseHash(one.Password.Reveal())
		if err != nil {
			return nil, fmt.Errorf("auth.identity.%q.password: %w", one.Key, err)
		}
		accounts = append(accounts, access.Account{ID: one.Key, User: one.Username, Hash: hash, Expires: one.Expires.Time})
	}
	opts := access.Options{
		Anonymous: cfg.Auth.Anonymous, Realm: cfg.Auth.Realm, Accounts: accounts,
		Issuers: issuers, Groups: make(map[string][]access.Subject), Metrics: metrics,
		Policy: translatePolicy(cfg.Global.AccessPolicy), Webhook: cfg.Global.AuthorizationWebhook,
	}
	if service := cfg.Auth.TokenService; service != nil {
		key, err := service.Key()
		if err != nil {
			return nil, fmt.Errorf("auth.token_service.secret_key: %w", err)
		}
		opts.Tokens = access.TokenOptions{Key: key, Realm: service.Realm, TTL: service.TTL}
	}
	for _, hook := range cfg.Auth.Webhooks {
		translated, err := translateWebhook(hook)
		if err != nil {
			return nil, fmt.Errorf("auth.webhook.%q: %w", hook.Key, err)
		}
		opts.Webhooks = append(opts.Webhooks, translated)
	}
	for name, members := range cfg.Auth.Groups {
		if opts.Groups[name], err = translateSubjects(members); err != nil {
			return nil, fmt.Errorf("auth.groups.%q: %w", name, err)
		}
	}
	for _, block := range cfg.Namespaces {
		one := access.Block{Key: block.Key, Images: block.Images, Policy: translatePolicy(block.AccessPolicy), Webhook: block.AuthorizationWebhook}
		if one.Allow, err = translateSubjects(block.Allow); err != nil {
			return nil, fmt.Errorf("repository.%q.allow: %w", block.Key, err)
		}
		opts.Blocks = append(opts.Blocks, one)
	}
	return access.New(opts)
}

func translateSubjects(texts []string) ([]access.Subject, error) {
	var subjects []access.Subject
	for _, text := range texts {
		subject, err := access.ParseSubject(text)
		if err != nil {
			return nil, fmt.Errorf("%q %w", text, err)
		}
		subjects = append(subjects, subject)
	}
	return subjects, nil
}

func translatePolicy(p *config.AccessPolicy) *access.Policy {
	if p == nil {
		return nil
	}
	return &access.Policy{DefaultAllow: p.Default == config.PolicyAllow, Rules: p.Rules}
}

func translateWebhook(w config.Webhook) (access.Webhook, error) {
	hook := access.Webhook{
		Name: w.Key, URL: w.URL.Std(), Timeout: time.Duration(w.TimeoutMS) * time.Millisecond,
		BearerToken: w.BearerToken.Reveal(), Username: w.BasicAuth.Username, Password: w.BasicAuth.Password.Reveal(),
		ForwardHeaders: w.ForwardHeaders, CacheTTL: w.CacheTTL,
	}
	files, err := readTLSFiles(w.ClientCertificate, w.ClientPrivateKey, w.ServerCABundle)
	if err == nil {
		hook.TLS, err = files.client()
	}
	return hook, err
}

// explainDenied returns the sentence that a client is told about a refusal.
func explainDenied(e *access.DeniedError) string {
	key := fmt.Sprintf("repository.%q", e.Block)
	switch {
	case e.Layer == access.LayerImages:
		return fmt.Sprintf("this mirror does not serve %s/%s. The images list of %s excludes it", e.Block, e.Name, key)
	case e.Anonymous:
		return "this mirror needs credentials. Log in to it"
	case e.Layer == access.LayerAllow:
		return fmt.Sprintf("%s may not pull from %s. The allow list of %s does not include it", e.Who, e.Block, key)
	case e.Layer == access.LayerPolicy:
		return fmt.Sprintf("the access policy of the mirror does not allow %s to %s. Check global.access_policy", e.Action, e.Who)
	case e.Layer == access.LayerBlockPolicy:
		return fmt.Sprintf("the access policy of %s does not allow %s to %s. Check access_policy of %s", e.Block, e.Action, e.Who, key)
	case e.Layer == access.LayerWebhook:
		return "the authorization webhook of the mirror does not allow this request"
	default:
		return "the authorization webhook of the mirror cannot decide at the moment. Check the log of the mirror"
	}
}

// tellsKey is the context's key of a tells.
type tellsKey struct{}

// tells reports whether the client of a request may know of the content that a question is about.
type tells func(ctx context.Context, q access.Question) bool

// rulesKey is the context's key of the context of the rules that have let a client in.
type rulesKey struct{}

// inForce returns the context of the rules that have let the client of a request in.
func inForce(ctx context.Context) context.Context {
	if rules, ok := ctx.Value(rulesKey{}).(context.Context); ok {
		return rules
	}
	return context.Background()
}

// senderKey is the context's key of a string: the user that has sent a request or, without rules,
// the address.
type senderKey struct{}

// sees reports whether the client of a request may know of a repository, or of a block if the
// name is empty.
//
// The question has no reference, so a rule that reads one hides the repository.
func sees(ctx context.Context, block, name string) bool {
	return isTold(ctx, access.Question{Action: access.GetManifest, Block: block, Name: name, Namespace: block + "/" + name})
}

// isTold reports whether the client of a request may know of the content that a question is about.
func isTold(ctx context.Context, q access.Question) bool {
	permits, ok := ctx.Value(tellsKey{}).(tells)
	return !ok || permits(ctx, q) // without rules, everything is open
}

// guard lets those clients pass to a handler of ops that may take its action.
type guard struct {
	current *access.Current
	proxies *forwarded.Current
}

// handler lets clients pass that may take an action. It answers others with refuse.
func (g guard) handler(action access.Action, next http.Handler, refuse refusal) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rules := g.current.Load()
		if rules.Open() && action == access.ChangeAPI && !g.isLocal(r) {
			refuse(w, "", errNotLocal)
			return
		}
		if rules.Open() {
			ctx := context.WithValue(r.Context(), rulesKey{}, rules.InForce())
			next.ServeHTTP(w, r.WithContext(context.WithValue(ctx, senderKey{}, g.proxies.Load().Address(r).Unmap().String())))
			return
		}
		w.Header().Set("Cache-Control", "no-store") // other clients may get other answers
		presented := access.Present(r, g.proxies.Load())
		identity, err := rules.Identify(r.Context(), presented)
		if err == nil {
			err = rules.Permit(r.Context(), identity, access.Question{Action: action}, presented)
		}
		if err == nil && action == access.ChangeAPI && identity.Anonymous {
			err = &access.DeniedError{Anonymous: true, Action: action}
		}
		noteVisitor(r.Context(), identity, err)
		if err != nil {
			refuse(w, rules.Challenge(presented, ""), err)
			return
		}
		permits := tells(func(ctx context.Context, q access.Question) bool { return rules.Tells(ctx, identity, q, presented) })
		ctx := context.WithValue(r.Context(), rulesKey{}, rules.InForce())
		ctx = context.WithValue(ctx, senderKey{}, identity.Name())
		next.ServeHTTP(w, r.WithContext(context.WithValue(ctx, tellsKey{}, permits)))
	})
}

// refusal answers a client that the rules refuse. The challenge asks for credentials.
type refusal func(w http.ResponseWriter, challenge string, err error)

// errNotLocal refuses changes by clients on other machines while there are no rules.
var errNotLocal = errors.New("without access rules, only clients on the machine of the mirror may change the cache. Send the request to localhost there, or set [auth]")

// errOtherSite refuses changes that a browser sends for a page of another site.
var errOtherSite = errors.New("pages of other sites may not change anything here")

// refuse answers a client that the rules refuse, as text for people.
func refuse(w http.ResponseWriter, challenge string, err error) {
	status, _, text := refusalOf(w.Header(), challenge, err)
	http.Error(w, text, status)
}

// refuseDocument is refuse for programs, such as clients of the token service, which show their
// user the message of an error document only.
func refuseDocument(w http.ResponseWriter, challenge string, err error) {
	status, code, text := refusalOf(w.Header(), challenge, err)
	writeError(w, status, code, text)
}

// refusalOf returns the answer to a client that the rules refuse, and sets its header.
func refusalOf(header http.Header, challenge string, err error) (status int, code, text string) {
	denied, isDenied := errors.AsType[*access.DeniedError](err)
	_, isBusy := errors.AsType[*access.BusyError](err)
	_, isAway := errors.AsType[*access.IssuerError](err)
	_, isInvalid := errors.AsType[*access.CredentialsError](err)
	switch {
	case errors.Is(err, errNotLocal), errors.Is(err, errOtherSite):
		return http.StatusForbidden, "DENIED", err.Error()
	case isDenied && !denied.Anonymous:
		return http.StatusForbidden, "DENIED", explainDenied(denied)
	case isBusy, isAway:
		header.Set("Retry-After", "10")
		return http.StatusServiceUnavailable, "UNAVAILABLE", err.Error()
	}
	header.Set("WWW-Authenticate", challenge)
	if isInvalid {
		return http.StatusUnauthorized, "UNAUTHORIZED", "the credentials are not valid. Check the username and the password"
	}
	return http.StatusUnauthorized, "UNAUTHORIZED", "this mirror needs credentials. Log in to it"
}
