package app

import (
	"errors"
	"fmt"
	"net/http"

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
	}
	if service := cfg.Auth.TokenService; service != nil {
		key, err := service.Key()
		if err != nil {
			return nil, fmt.Errorf("auth.token_service.secret_key: %w", err)
		}
		opts.Tokens = access.TokenOptions{Key: key, Realm: service.Realm, TTL: service.TTL}
	}
	for name, members := range cfg.Auth.Groups {
		for _, text := range members {
			member, err := access.ParseSubject(text)
			if err != nil {
				return nil, fmt.Errorf("auth.groups.%q: %q %w", name, text, err)
			}
			opts.Groups[name] = append(opts.Groups[name], member)
		}
	}
	for _, block := range cfg.Namespaces {
		opts.Blocks = append(opts.Blocks, access.Block{Key: block.Key})
	}
	return access.New(opts)
}

// explainDenied returns the sentence that a client is told about a refusal.
func explainDenied(e *access.DeniedError) string {
	if e.Anonymous {
		return "this mirror needs credentials. Log in to it"
	}
	return e.Reason
}

// guard lets those clients pass to a handler of ops that may take its action.
type guard struct {
	current *access.Current
	proxies forwarded.Proxies
}

func (g guard) handler(action access.Action, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rules := g.current.Load()
		if rules.Open() {
			next.ServeHTTP(w, r)
			return
		}
		presented := access.Present(r, g.proxies)
		identity, err := rules.Identify(r.Context(), presented)
		if err == nil {
			err = rules.Permit(r.Context(), identity, access.Question{Action: action})
		}
		if err != nil {
			refuse(w, rules.Challenge(presented, ""), err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// refuse answers a client that the rules refuse, as text for people.
func refuse(w http.ResponseWriter, challenge string, err error) {
	denied, isDenied := errors.AsType[*access.DeniedError](err)
	_, isBusy := errors.AsType[*access.BusyError](err)
	_, isAway := errors.AsType[*access.IssuerError](err)
	switch {
	case isDenied && !denied.Anonymous:
		http.Error(w, explainDenied(denied), http.StatusForbidden)
	case isBusy, isAway:
		w.Header().Set("Retry-After", "10")
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	default:
		w.Header().Set("WWW-Authenticate", challenge)
		http.Error(w, "this mirror needs valid credentials", http.StatusUnauthorized)
	}
}
