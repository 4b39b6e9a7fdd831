package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/weirhq/weir/door"
)

// tlsPulls is how often the large blob is read from each of the two servers.
const tlsPulls = 4

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
	mirrored, err := transfer(ctx, m, "https://"+m.addr+blob)
	if err != nil {
		return nil, err
	}
	p, addr, err := startNginx(ctx, nginx, dir, filepath.Dir(door.SelfSignedPath(filepath.Join(dir, "data"))), up, blob)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	served, err := transfer(ctx, p, "https://"+addr+"/blob")
	if err != nil {
		return nil, err
	}
	if mirrored.cipher != served.cipher {
		return nil, fmt.Errorf("the mirror has the cipher %s, and nginx %s", tls.CipherSuiteName(mirrored.cipher), tls.CipherSuiteName(served.cipher))
	}
	return []row{
		{"warm 1 GiB blob over TLS (" + tls.CipherSuiteName(mirrored.cipher) + "): throughput", fmt.Sprintf("%.0f MiB/s", mirrored.rate)},
		{"warm 1 GiB blob over TLS: CPU of the mirror per GiB", mirrored.cpu.String()},
		{"the same file over TLS from nginx: CPU per GiB", served.cpu.String()},
		{"CPU of the mirror for a blob over TLS, nginx is 1", fmt.Sprintf("%.2f", mirrored.cpu.total()/served.cpu.total())},
	}, nil
}

// transferred is the cost of a GiB.
type transferred struct {
	cpu    usage
	rate   float64 // MiB/s
	cipher uint16
}

// transfer reads a body once without measuring, and then several times on connections of
// their own.
func transfer(ctx context.Context, server process, url string) (transferred, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // of this machine
	var result transferred
	var before usage
	var start time.Time
	for n := range tlsPulls + 1 {
		if n == 1 {
			before, start = server.cpu(), time.Now()
		}
		cipher, err := read(ctx, client, url)
		if err != nil {
			return result, err
		}
		result.cipher = cipher
	}
	result.rate = tlsPulls * 1024 / time.Since(start).Seconds()
	result.cpu = server.cpu().minus(before, tlsPulls)
	return result, nil
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
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, *buf)
	if err == nil && (n != gib || resp.StatusCode != http.StatusOK) {
		err = errors.New("short body, or " + resp.Status)
	}
	return resp.TLS.CipherSuite, err
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
