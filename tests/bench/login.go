package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/tests/load"
)

const (
	loginRounds   = 7    // of each kind of client, by turns
	loginRequests = 2000 // of each connection in a round: half a second of processor time, counted in hundredths
	// The account's password is "secret".
	benchPassword = "bench:secret"
	benchService  = "[auth.token_service]\nsecret_key = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\n"
	// benchHook is asked about all requests, and its answers are remembered.
	benchHook = "[global]\nauthorization_webhook = \"hook\"\n[auth.webhook.hook]\nurl = %q\ncache_ttl = 3600\n"
	// benchOwn is a block whose upstream decides about each client.
	benchOwn     = "[repository.\"own\"]\nauthorize = \"upstream\"\nauth_check_ttl = \"1h\"\n[[repository.\"own\".upstream]]\nurl = %q\n"
	benchAccount = "[auth.identity.bench]\nusername = \"bench\"\npassword = \"$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO\"\n"
)

// loggedInManifests compares a warm manifest from an open mirror with one for a client that
// shows a token or a password, also if a webhook or the upstream has allowed it. The rounds
// alternate, so that a busy machine slows all alike.
func loggedInManifests(ctx context.Context, open *mirror, up *upstream) ([]row, error) {
	dir := filepath.Dir(open.config)
	locked, err := startMirror(ctx, filepath.Join(dir, "locked"), up.url, benchService+benchAccount)
	if err != nil {
		return nil, err
	}
	defer locked.stop()
	hook := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer hook.Close()
	hooked, err := startMirror(ctx, filepath.Join(dir, "hooked"), up.url, benchAccount+fmt.Sprintf(benchHook, hook.URL))
	if err != nil {
		return nil, err
	}
	defer hooked.stop()
	own, err := startMirror(ctx, filepath.Join(dir, "own"), up.url, fmt.Sprintf(benchOwn, up.url))
	if err != nil {
		return nil, err
	}
	defer own.stop()
	password := "Basic " + base64.StdEncoding.EncodeToString([]byte(benchPassword))
	token, err := locked.token(ctx, password)
	if err != nil {
		return nil, err
	}
	path := up.addManifest()
	clients := []struct {
		label, authorization string
		mirror               *mirror
		path                 string
		seconds              []float64 // of processor time for 1,000 requests, one for each round
	}{
		{"open mirror", "", open, path, nil},
		{"token", "Bearer " + token, locked, path, nil},
		{"password", password, locked, path, nil},
		{"password and webhook", password, hooked, path, nil},
		{"password of the upstream", password, own, strings.Replace(path, "/bench/", "/own/", 1), nil},
	}
	for round := range loginRounds + 1 {
		for i := range clients {
			c := &clients[i]
			before := c.mirror.cpu()
			if err := c.mirror.ask(ctx, c.path, c.authorization); err != nil {
				return nil, err
			}
			if round > 0 { // the first one fills the cache
				c.seconds = append(c.seconds, c.mirror.cpu().minus(before, manifestClients*loginRequests/1000).total())
			}
		}
	}
	var rows []row
	for _, c := range clients {
		rows = append(rows, loginRow(c.label, c.seconds, clients[0].seconds))
	}
	return rows, nil
}

// loginRow compares the processor times of one kind of client with those of the open mirror,
// round by round.
func loginRow(label string, seconds, open []float64) row {
	ratios := make([]float64, len(seconds))
	for i := range ratios {
		ratios[i] = seconds[i] / open[i]
	}
	return row{
		"warm manifest, " + label + ": CPU of the mirror per 1,000 requests; relative to the open mirror",
		fmt.Sprintf("%.3f s, %.2f", median(seconds), median(ratios)),
	}
}

// ask sends a number of requests on each of some connections.
func (m *mirror) ask(ctx context.Context, path, authorization string) error {
	var clients errgroup.Group
	fields := ""
	if authorization != "" {
		fields = "Authorization: " + authorization + "\r\n"
	}
	for range manifestClients {
		clients.Go(func() error {
			left := loginRequests
			return load.Request(ctx, m.addr, path, fields, func() bool { left--; return left > 0 })
		})
	}
	return clients.Wait()
}

// token returns a token for the sender of a password.
func (m *mirror) token(ctx context.Context, password string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.addr+"/token", nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", password)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct{ Token string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Token == "" {
		return "", errors.Join(errors.New("the mirror issues no token: "+resp.Status), err)
	}
	return answer.Token, nil
}

func median(of []float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[len(sorted)/2]
}
