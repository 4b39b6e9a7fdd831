package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	loginRounds   = 7    // of each kind of client, by turns
	loginRequests = 2000 // of each connection in a round: half a second of processor time, counted in hundredths
	// The account's password is "secret".
	benchPassword = "bench:secret"
	benchService  = "[auth.token_service]\nsecret_key = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\n"
	benchAccount  = "[auth.identity.bench]\nusername = \"bench\"\npassword = \"$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO\"\n"
)

// loggedInManifests compares a warm manifest from an open mirror with one for a client that
// shows a token or a password. The rounds alternate, so that a busy machine slows all alike.
func loggedInManifests(ctx context.Context, open *mirror, up *upstream) ([]row, error) {
	locked, err := startMirror(ctx, filepath.Join(filepath.Dir(open.config), "locked"), up.url, benchService+benchAccount)
	if err != nil {
		return nil, err
	}
	defer locked.stop()
	password := "Basic " + base64.StdEncoding.EncodeToString([]byte(benchPassword))
	token, err := locked.token(ctx, password)
	if err != nil {
		return nil, err
	}
	clients := []struct {
		label, authorization string
		mirror               *mirror
		seconds              []float64 // of processor time for 1,000 requests, one for each round
	}{{"open mirror", "", open, nil}, {"token", "Bearer " + token, locked, nil}, {"password", password, locked, nil}}
	path := up.addManifest()
	for round := range loginRounds + 1 {
		for i := range clients {
			c := &clients[i]
			before := c.mirror.cpu()
			if err := c.mirror.ask(ctx, path, c.authorization); err != nil {
				return nil, err
			}
			if round > 0 { // the first one fills the cache
				c.seconds = append(c.seconds, c.mirror.cpu().minus(before, manifestClients*loginRequests/1000).total())
			}
		}
	}
	var rows []row
	for _, c := range clients {
		ratios := make([]float64, loginRounds)
		for i := range ratios {
			ratios[i] = c.seconds[i] / clients[0].seconds[i]
		}
		rows = append(rows, row{
			"warm manifest, " + c.label + ": CPU of the mirror per 1,000 requests, and the open mirror is 1",
			fmt.Sprintf("%.3f s, %.2f", median(c.seconds), median(ratios)),
		})
	}
	return rows, nil
}

// ask sends a number of requests on each of some connections.
func (m *mirror) ask(ctx context.Context, path, authorization string) error {
	var clients errgroup.Group
	for range manifestClients {
		clients.Go(func() error {
			left := loginRequests
			return request(ctx, m.addr, path, authorization, func() bool { left--; return left > 0 })
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
