package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/weirhq/weir/door"
	"github.com/weirhq/weir/tests/load"
)

// tlsRounds is how often the large blob is read from each of the two servers, by turns: a busy
// machine slows both alike.
const tlsRounds = 5

// warmBlobOverTLS pulls 1 GiB that a mirror with TLS has, and the same bytes from nginx,
// with the same certificate and cipher.
func warmBlobOverTLS(ctx context.Context, dir string, up *upstream) ([]row, error) {
	nginx, err := exec.LookPath("nginx")
	if err != nil {
		return []row{{"warm 1 GiB blob over TLS", "not measured: nginx is not installed"}}, nil
	}
	m, err := startMirror(ctx, dir, up.url, "[server.tls]\nself_signed = true\n")
	if err != nil {
		return nil, err
	}
	defer m.stop()
	blob := up.add(gib)
	p, addr, err := startNginx(ctx, nginx, dir, filepath.Dir(door.SelfSignedPath(filepath.Join(dir, "data"))), up, blob)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	mirrored, served := &transfers{server: m, url: "https://" + m.addr + blob}, &transfers{server: p, url: "https://" + addr + "/blob"}
	ratios := make([]float64, 0, tlsRounds)
	for round := range tlsRounds + 1 {
		for _, one := range []*transfers{mirrored, served} {
			if err := one.pull(ctx); err != nil {
				return nil, err
			}
		}
		if round == 0 { // it fills the cache, and that of the kernel
			mirrored.cpu, mirrored.rates, served.cpu, served.rates = nil, nil, nil, nil
			continue
		}
		ratios = append(ratios, mirrored.cpu[round-1]/served.cpu[round-1])
	}
	if mirrored.cipher != served.cipher {
		return nil, fmt.Errorf("the mirror has the cipher %s, and nginx %s", tls.CipherSuiteName(mirrored.cipher), tls.CipherSuiteName(served.cipher))
	}
	return []row{
		{"warm 1 GiB blob over TLS (" + tls.CipherSuiteName(mirrored.cipher) + "): throughput", fmt.Sprintf("%.0f MiB/s", median(mirrored.rates))},
		{"warm 1 GiB blob over TLS: CPU of the mirror per GiB", fmt.Sprintf("%.3f s", median(mirrored.cpu))},
		{"the same file over TLS from nginx: CPU per GiB", fmt.Sprintf("%.3f s", median(served.cpu))},
		{"CPU of the mirror for a blob over TLS, relative to nginx", fmt.Sprintf("%.2f", median(ratios))},
	}, nil
}

// transfers are the costs of a GiB from one server, one for each round.
type transfers struct {
	server process
	url    string
	cpu    []float64 // seconds
	rates  []float64 // MiB/s
	cipher uint16
}

// pull reads the body once more, on a connection of its own.
func (t *transfers) pull(ctx context.Context) (err error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // of this machine
	before, start := t.server.cpu(), time.Now()
	if t.cipher, err = read(ctx, client, t.url); err != nil {
		return err
	}
	t.rates = append(t.rates, 1024/time.Since(start).Seconds())
	t.cpu = append(t.cpu, t.server.cpu().minus(before, 1).total())
	return nil
}

func read(ctx context.Context, client *http.Client, url string) (cipher uint16, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ContentLength != gib {
		return 0, fmt.Errorf("%s with %d bytes", resp.Status, resp.ContentLength)
	}
	return resp.TLS.CipherSuite, load.ReadAll(resp, 0)
}

// startNginx serves one blob of the upstream from a file over TLS.
func startNginx(ctx context.Context, program, dir, pair string, up *upstream, blob string) (*daemon, string, error) {
	if err := up.save(blob, filepath.Join(dir, "blob")); err != nil {
		return nil, "", err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	addr := listener.Addr().String()
	listener.Close()
	// One process, so that all of its time is counted.
	config := fmt.Sprintf(`user root;
daemon off;
master_process off;
pid %[1]s/nginx.pid;
events { worker_connections 64; }
http {
access_log off;
sendfile on;
client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
server {
listen %[2]s ssl;
ssl_certificate %[3]s/server.crt;
ssl_certificate_key %[3]s/server.key;
ssl_protocols TLSv1.3;
ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
root %[1]s;
}
}
`, dir, addr, pair)
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return nil, "", err
	}
	cmd := exec.CommandContext(ctx, program, "-c", path, "-p", dir, "-e", "stderr")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, "", err
	}
	d := &daemon{cmd}
	for range 100 {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			return d, addr, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	d.stop()
	return nil, "", errors.New("nginx does not start")
}
