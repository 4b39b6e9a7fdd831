package app

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/forwarded"
)

// maxTokenForm bounds the form of a token request. It holds a password, or a token of an
// issuer in its place.
const maxTokenForm = 32 << 10

// tokenService issues tokens at /token: to GET with the credentials in a header
// (distribution-spec tokens, "Requesting a Token"), and to POST with a password in a form
// (RFC 6749, section 4.3), which containerd tries first.
type tokenService struct {
	current *access.Current
	proxies *forwarded.Current
}

// serve answers a request. It returns the holder of the token, or the reason of a refusal.
func (s tokenService) serve(w http.ResponseWriter, r *http.Request) (holder string, refused error) {
	rules := s.current.Load()
	if !rules.IssuesTokens() {
		noEndpoint(w, r)
		return "", nil
	}
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	presented := access.Present(r, s.proxies.Load())
	switch r.Method {
	case http.MethodGet:
	case http.MethodPost:
		r.Body = http.MaxBytesReader(w, r.Body, maxTokenForm)
		// Other grants are refused as RFC 6749, section 5.2 says.
		if err := r.ParseForm(); err != nil || r.PostForm.Get("grant_type") != "password" {
			header.Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"error":"unsupported_grant_type"}`)) // a client that has left does not need it
			return "", nil
		}
		credentials := r.PostForm.Get("username") + ":" + r.PostForm.Get("password")
		presented.Authorization = []string{"Basic " + base64.StdEncoding.EncodeToString([]byte(credentials))}
	default:
		header.Set("Allow", "GET, POST")
		http.Error(w, "tokens are only issued to GET and POST", http.StatusMethodNotAllowed)
		return "", nil
	}
	token, err := rules.Issue(r.Context(), presented)
	if err != nil {
		refuseDocument(w, rules.BasicChallenge(), err)
		return "", err
	}
	body, err := json.Marshal(token)
	if err != nil {
		panic(err) // strings and a number are always JSON
	}
	header.Set("Content-Type", "application/json")
	_, _ = w.Write(body) // a client that has left needs no token
	return token.Holder(), nil
}

// grantSecret returns the secret of the tokens that hold a client's credential: the one that
// all instances share, if there is one, of the token service or for Redis.
func grantSecret(cfg *config.Config) ([]byte, error) {
	switch redis := cfg.Cache.Redis; {
	case cfg.Auth.TokenService != nil:
		key, err := cfg.Auth.TokenService.Key()
		if err != nil {
			return nil, fmt.Errorf("auth.token_service.secret_key: %w", err)
		}
		return key, nil
	case redis != nil && redis.SecretKey != "":
		sum := sha256.Sum256([]byte(redis.SecretKey.Reveal()))
		return sum[:], nil
	default:
		return nil, nil
	}
}
