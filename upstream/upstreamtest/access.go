package upstreamtest

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

const defaultTokenLife = 5 * time.Minute

// grant is the permission that a token gives.
type grant struct {
	scopes  []string
	expires time.Time
}

// authorized reports whether a request may have an answer. It has refused the
// request if not.
func (r *Registry) authorized(w http.ResponseWriter, req *http.Request, name string) bool {
	switch {
	case r.config.hidden != 0 && name != "" && req.Header.Get("Authorization") == "":
		http.Error(w, "", r.config.hidden)
		return false
	case r.config.bearer != nil:
		return r.hasToken(w, req, name)
	case r.config.username != "":
		username, password, _ := req.BasicAuth()
		if username == r.config.username && password == r.config.password {
			return true
		}
		return challengeBasic(w)
	default:
		account, restricted := r.accountOf(req)
		switch {
		case !restricted:
			return true
		case account == nil:
			return challengeBasic(w)
		case name == "" || slices.Contains(account.Repositories, name):
			return true
		case account.Username == "":
			return challengeBasic(w)
		default:
			refuse(w, http.StatusForbidden, "DENIED", "requested access to the resource is denied")
			return false
		}
	}
}

func challengeBasic(w http.ResponseWriter) bool {
	w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
	refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	return false
}

// accountOf returns the account of a request with Basic or without credentials, nil if there
// is none. It returns false if the registry has no accounts.
func (r *Registry) accountOf(req *http.Request) (*Account, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	username, password, _ := req.BasicAuth()
	for _, a := range r.config.accounts {
		if a.Username == username && a.Password == password {
			return &a, true
		}
	}
	return nil, len(r.config.accounts) > 0
}

// scopesOf returns the scopes of a token request that an account has.
func (a *Account) scopesOf(wanted []string) (granted []string) {
	for _, repository := range a.Repositories {
		if scope := "repository:" + repository + ":pull"; slices.Contains(wanted, scope) {
			granted = append(granted, scope)
		}
	}
	return granted
}

func (r *Registry) hasToken(w http.ResponseWriter, req *http.Request, name string) bool {
	b := r.config.bearer
	scope := "repository:" + name + ":pull"
	value, sent := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	r.mu.Lock()
	granted, known := r.tokens[value]
	r.mu.Unlock()
	if known && granted.expires.After(time.Now()) && (name == "" || slices.Contains(granted.scopes, scope)) {
		return true
	}
	if sent && b.Forbidden { // as ECR does, without a challenge
		refuse(w, http.StatusForbidden, "DENIED", "your authorization token has expired")
		return false
	}
	challenge := fmt.Sprintf(`Bearer realm=%q,service=%q`, r.TokenURL(), r.Host)
	if name != "" && !b.OmitScope {
		challenge += fmt.Sprintf(`,scope=%q`, scope)
	}
	w.Header().Set("WWW-Authenticate", challenge)
	refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	return false
}

// serveToken is the token service.
func (r *Registry) serveToken(w http.ResponseWriter, req *http.Request) {
	rec := r.record(serverToken, w, req)
	p := r.plan(req)
	if p.intercept(rec, req) {
		return
	}
	b := r.config.bearer
	if b.Username != "" {
		if username, password, _ := req.BasicAuth(); username != b.Username || password != b.Password {
			refuse(rec, http.StatusUnauthorized, "UNAUTHORIZED", "incorrect username or password")
			return
		}
	}
	scopes := req.URL.Query()["scope"]
	if b.IdentityToken != "" {
		form := func(name string) string { return req.PostFormValue(name) }
		switch {
		case req.Method != http.MethodPost || form("grant_type") != "refresh_token" || form("client_id") == "" || form("service") != r.Host:
			refuse(rec, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
			return
		case form("refresh_token") != b.IdentityToken:
			rec.WriteHeader(http.StatusBadRequest)
			_, _ = rec.Write([]byte(`{"error":"invalid_grant"}`))
			return
		}
		scopes = strings.Fields(form("scope"))
	}
	if account, restricted := r.accountOf(req); restricted {
		if account == nil {
			refuse(rec, http.StatusUnauthorized, "UNAUTHORIZED", "incorrect username or password")
			return
		}
		scopes = account.scopesOf(scopes) // as Docker Hub does, with 200
	}
	life := b.TTL
	if life == 0 {
		life = defaultTokenLife
	}
	now := time.Now()
	r.mu.Lock()
	r.serial++
	token := fmt.Sprintf("token-%d", r.serial)
	r.tokens[token] = grant{scopes, now.Add(life)}
	r.mu.Unlock()
	field := "token"
	if b.AccessTokenOnly {
		field = "access_token"
	}
	answer := map[string]any{field: token}
	if !b.OmitExpiry {
		answer["expires_in"] = life.Seconds()
		answer["issued_at"] = now.UTC().Format(time.RFC3339Nano)
	}
	body := r.marshal(answer)
	if b.Answer != nil {
		body = []byte(b.Answer(token, now))
	}
	rec.Header().Set("Content-Type", "application/json")
	p.write(rec, req, bytes.NewReader(body))
}

// RevokeTokens makes the registry refuse all tokens that it has issued so far.
func (r *Registry) RevokeTokens() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.tokens)
}

// sign makes the CDN's URL of a blob.
func (r *Registry) sign(name, ref string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.serial++
	signature := fmt.Sprint(r.serial)
	expires := time.Now().Add(100 * 365 * 24 * time.Hour)
	if ttl := r.config.cdn.TTL; ttl > 0 {
		expires = time.Now().Add(ttl)
	}
	r.signatures[signature] = expires
	u := *r.registry.url
	if r.cdn != nil {
		u = *r.cdn.url
	}
	u.Path = "/cdn/" + name + "/" + ref
	u.RawQuery = url.Values{"signature": {signature}}.Encode()
	return u.String()
}

// ExpireURLs makes the CDN answer 403 for all URLs of redirects so far.
func (r *Registry) ExpireURLs() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.signatures)
}

// serveCDN is the second host for blobs.
func (r *Registry) serveCDN(w http.ResponseWriter, req *http.Request) {
	rec := r.record(serverCDN, w, req)
	p := r.plan(req)
	if p.intercept(rec, req) {
		return
	}
	if req.Header.Get("Authorization") != "" { // as S3 does if there is a signature, too
		http.Error(rec, "<Error><Code>InvalidArgument</Code></Error>", http.StatusBadRequest)
		return
	}
	path := strings.TrimPrefix(req.URL.Path, "/cdn/")
	slash := strings.LastIndex(path, "/")
	r.mu.Lock()
	expires := r.signatures[req.URL.Query().Get("signature")]
	blob, ok := r.repository(path[:max(slash, 0)]).blobs[digest.Digest(path[slash+1:])]
	r.mu.Unlock()
	switch {
	case !expires.After(time.Now()):
		http.Error(rec, "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>", http.StatusForbidden)
	case !ok:
		http.Error(rec, "<Error><Code>NoSuchKey</Code></Error>", http.StatusNotFound)
	default:
		rec.Header().Set("Content-Type", "application/octet-stream")
		p.write(rec, req, blob)
	}
}
