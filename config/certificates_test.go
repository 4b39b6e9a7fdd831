package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// certificate writes a self-signed certificate and its key.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "weir"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		write(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
}

func TestCertificates(t *testing.T) {
	cert, key := certificate(t)
	otherCert, otherKey := certificate(t)
	at := `repository."docker.io".upstream[0].`
	for _, tt := range []struct {
		name, cert, key, ca string
		want                []string // how the problems begin, after file and line
	}{
		{"good", cert, key, otherCert, nil},
		{"of two pairs", cert, otherKey, "", []string{at + "client_certificate: does not go with client_private_key: "}},
		{"swapped", key, cert, "", []string{at + "client_certificate: does not go with client_private_key: "}},
		{"missing", "/none/c", "/none/k", "/none/ca", []string{
			at + "client_certificate: cannot read the file: stat /none/c: no such",
			at + "client_private_key: cannot read the file: stat /none/k: no such",
			at + "server_ca_bundle: cannot read the file: stat /none/ca: no such"}},
		{"bundle without certificates", cert, key, otherKey, []string{at + "server_ca_bundle: contains no PEM certificate"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			report := problemsOf(t, docker+"client_certificate = "+quote(tt.cert)+"\nclient_private_key = "+quote(tt.key)+"\nserver_ca_bundle = "+quote(tt.ca)+"\n")
			got := slices.Collect(strings.Lines(report))
			if len(got) != len(tt.want) {
				t.Fatalf("problems: %q", got)
			}
			for i, want := range tt.want {
				if !strings.Contains(got[i], ": "+want) {
					t.Errorf("got %s, want %s", got[i], want)
				}
			}
		})
	}
}

// A bundle of which a part is missing at its end, or damaged, is not used.
func TestHalfWrittenBundles(t *testing.T) {
	cert, key := certificate(t)
	other, _ := certificate(t)
	leaf, next := read(t, cert), read(t, other)
	for name, tt := range map[string]struct {
		bundle string
		cut    bool
	}{
		"the leaf alone":             {leaf, false},
		"with an authority":          {leaf + next, false},
		"without the last line feed": {leaf + strings.TrimSpace(next), false},
		"with words between":         {"# the leaf, not -----BEGIN CERTIFICATE-----\n" + leaf + "\n# its authority\r\n" + next, false},
		"with its key":               {leaf + read(t, key), false},
		"cut at the next begin":      {leaf + "-----BEGIN CERTIFICATE-----\n", true},
		"cut in the next body":       {leaf + next[:len(next)/2], true},
		"cut in the next end":        {leaf + next[:len(next)-8], true},
		"damaged between":            {leaf + strings.Replace(next, "-----END", "-----ENG", 1) + next, true},
	} {
		bundle := write(t, "bundle.pem", tt.bundle)
		for _, table := range []string{
			"[server.tls]\nserver_certificate_bundle = " + quote(bundle) + "\nserver_private_key = " + quote(key) + "\n",
			"[server.tls]\nself_signed = true\nclient_ca_bundle = " + quote(bundle) + "\n",
			docker + "server_ca_bundle = " + quote(bundle) + "\n",
		} {
			if report := problemsOf(t, table); strings.Contains(report, "truncated or damaged") != tt.cut || !tt.cut && report != "" {
				t.Errorf("%s in %s: %s", name, table, report)
			}
		}
	}
}

// The certificates of Redis are checked and watched like those of an upstream.
func TestRedisCertificates(t *testing.T) {
	cert, key := certificate(t)
	otherCert, otherKey := certificate(t)
	for _, tt := range []struct{ name, cert, key, ca, want string }{
		{"good", cert, key, otherCert, ""},
		{"authority alone", "", "", otherCert, ""},
		{"pair alone", cert, key, "", ""},
		{"of two pairs", cert, otherKey, "", "cache.redis.client_certificate: does not go with client_private_key: "},
		{"missing", cert, "/none/k", "", "cache.redis.client_private_key: cannot read the file: stat /none/k: no such"},
		{"bundle without certificates", "", "", key, "cache.redis.server_ca_bundle: contains no PEM certificate"},
	} {
		text := docker + "[cache.redis]\nurl = \"rediss://h\"\nclient_certificate = " + quote(tt.cert) +
			"\nclient_private_key = " + quote(tt.key) + "\nserver_ca_bundle = " + quote(tt.ca) + "\n"
		report := problemsOf(t, text)
		if tt.want == "" && report != "" || !strings.Contains(report, tt.want) {
			t.Errorf("%s: %s, want %s", tt.name, report, tt.want)
		}
		if tt.name != "good" {
			continue
		}
		for _, file := range []string{tt.cert, tt.key, tt.ca} {
			if !slices.Contains(mustLoad(t, text).Files(), file) {
				t.Errorf("%s is not watched", file)
			}
		}
	}
}

// TestMirrorOfToday loads an unchanged pull-through configuration of Angos.
func TestMirrorOfToday(t *testing.T) {
	cert, key := certificate(t)
	c := mustLoad(t, strings.NewReplacer("@CERT@", cert, "@KEY@", key, "@ROOT@", filepath.Join(t.TempDir(), "data")).Replace(mirror))
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, r := range c.Namespaces {
		keys = append(keys, r.Key)
	}
	if !slices.Equal(keys, []string{"docker-io", "ghcr.io", "internal", "library", "quay.io"}) {
		t.Errorf("repositories %q", keys)
	}
	library := c.Namespaces[3]
	if !library.ImmutableTags || len(library.ImmutableTagsExclusions) != 2 || library.Host != "" ||
		library.Upstreams[0].Password != "tiger" || library.Upstreams[1].MaxRedirect != 5 {
		t.Errorf("library = %+v", library)
	}
	if c.Global.MaxConcurrentCacheJobs != 8 || c.Global.MaxConcurrentRequests != 64 || c.Cache.Redis.KeyPrefix != "angos" || c.Server.Address() != "0.0.0.0:8000" {
		t.Errorf("got %+v", c)
	}
	for _, file := range []string{cert, key} {
		if !slices.Contains(c.Files(), file) {
			t.Errorf("%s is not watched", file)
		}
	}
	checkMirrorWarnings(t, c.Warnings())
}

func checkMirrorWarnings(t *testing.T, warnings []string) {
	t.Helper()
	if len(warnings) != 4 || !strings.Contains(warnings[2], "with and without credentials") {
		t.Fatalf("warnings %q", warnings)
	}
	for _, key := range []string{"server.query_timeout (", "server.query_timeout_grace_period (", "global.update_pull_time (", "repository.library.retention_policy ("} {
		if !strings.Contains(warnings[0], key) {
			t.Errorf("%s is missing in: %s", key, warnings[0])
		}
	}
	if !strings.Contains(warnings[1], "global.access_policy.default_allow (") || !strings.Contains(warnings[1], `Write default = "allow"`) {
		t.Errorf("the older spelling: %s", warnings[1])
	}
	if strings.Contains(strings.Join(warnings, "\n"), "max_concurrent_requests") {
		t.Error("a key that counts is called one that changes nothing")
	}
	for _, key := range []string{"repository.internal.upstream[0] (", "repository.library.upstream[0] ("} {
		if !strings.Contains(warnings[3], key) {
			t.Errorf("%s is missing in: %s", key, warnings[3])
		}
	}
	if strings.Contains(warnings[3], "ghcr.io") || strings.Contains(warnings[2], "tiger") {
		t.Errorf("says too much: %s", warnings[3])
	}
}

const mirror = `
[server]
bind_address = "0.0.0.0"
port = 8000
query_timeout = 3600
query_timeout_grace_period = 60

[global]
max_concurrent_requests = 64
max_concurrent_cache_jobs = 8
update_pull_time = true

[global.access_policy]
default_allow = true

[blob_store.fs]
root_dir = "@ROOT@"

[cache.redis]
url = "redis://localhost:6379/0"
key_prefix = "angos"

[observability.tracing]
endpoint = "http://localhost:4317"
sampling_rate = 0.25

[ui]
enabled = true

[repository.library]
immutable_tags = true
immutable_tags_exclusions = ["^latest$", "^nightly.*$"]

[repository.library.retention_policy]
rules = ["image.pushed_at > now() - days(30)"]

[[repository.library.upstream]]
url = "https://registry-1.docker.io"
max_redirect = 5
username = "robot"
password = "tiger"

[[repository.library.upstream]]
url = "https://mirror.example.com"

[[repository."docker-io".upstream]]
url = "https://registry-1.docker.io"

[repository."ghcr.io"]

[[repository."ghcr.io".upstream]]
url = "https://ghcr.io"

[repository."quay.io"]

[[repository."quay.io".upstream]]
url = "https://quay.io"

[repository.internal]

[[repository.internal.upstream]]
url = "https://registry.internal:5000"
client_certificate = "@CERT@"
client_private_key = "@KEY@"
server_ca_bundle = "@CERT@"
`

// The table [server.tls] names exactly one certificate, and one that works. Its files are
// watched.
func TestServerTLS(t *testing.T) {
	cert, key := certificate(t)
	otherCert, otherKey := certificate(t)
	cut := write(t, "cut.pem", read(t, cert)[:100])
	both := write(t, "both.pem", read(t, cert)+read(t, key))
	crlf := write(t, "crlf.pem", strings.ReplaceAll(read(t, cert), "\n", "\r\n"))
	locked := write(t, "locked.pem", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
	files := func(cert, key string) string {
		return "server_certificate_bundle = " + quote(cert) + "\nserver_private_key = " + quote(key) + "\n"
	}
	for name, tt := range map[string]struct{ text, want string }{
		"files":                 {files(cert, key), ""},
		"files of Windows":      {files(crlf, key), ""},
		"both in one file":      {files(both, both), ""},
		"self-signed":           {"self_signed = true\n", ""},
		"all of it":             {files(cert, key) + "http2 = true\nclient_auth = \"required\"\nclient_ca_bundle = " + quote(otherCert) + "\n", ""},
		"optional":              {"self_signed = true\nclient_auth = \"optional\"\n", ""},
		"none":                  {"", "server.tls: has no certificate; set "},
		"none, written out":     {"self_signed = false\n", "server.tls: has no certificate; set "},
		"two":                   {files(cert, key) + "self_signed = true\n", "server.tls.self_signed: cannot be true while "},
		"half a pair":           {"server_private_key = " + quote(key) + "\n", "server.tls.server_certificate_bundle: is missing: server_private_key is set"},
		"half a pair and more":  {"server_private_key = " + quote(key) + "\nself_signed = true\n", "server.tls.self_signed: cannot be true while "},
		"of two pairs":          {files(cert, otherKey), "server.tls.server_certificate_bundle: does not go with server_private_key: "},
		"swapped":               {files(key, cert), "server.tls.server_certificate_bundle: does not go with server_private_key: "},
		"cut":                   {files(cut, key), "server.tls.server_certificate_bundle: does not go with server_private_key: "},
		"encrypted key":         {files(cert, locked), "server.tls.server_certificate_bundle: does not go with server_private_key: "},
		"missing":               {files("/none/c", key), "server.tls.server_certificate_bundle: cannot read the file: stat /none/c: no such"},
		"a directory":           {files(cert, t.TempDir()), "server.tls.server_private_key: "},
		"required, no CA":       {"self_signed = true\nclient_auth = \"required\"\n", "server.tls.client_ca_bundle: is missing: client_auth is \"required\""},
		"a CA without any":      {"self_signed = true\nclient_ca_bundle = " + quote(key) + "\n", "server.tls.client_ca_bundle: contains no PEM certificate"},
		"another word":          {"self_signed = true\nclient_auth = \"always\"\n", "server.tls.client_auth: "},
		"misspelt":              {"selfsigned = true\n", "server.tls.selfsigned: unknown key; did you mean \"self_signed\"?"},
		"part of a name":        {"self_signed = true\ncertificate = \"x\"\n", "server.tls.certificate: unknown key; did you mean \"server_certificate_bundle\"?"},
		"ACME elsewhere":        {"self_signed = true\n[server.acme]\nhosts = [\"a.test\"]\n", "server.acme: unknown key; did you mean [server.tls.acme]?"},
		"TLS at the top":        {"self_signed = true\n[tls]\nself_signed = true\n", ": tls: unknown key; did you mean [server.tls]?"},
		"DNS elsewhere":         {"self_signed = true\n[server.tls.dns]\nprovider = \"exec\"\n", "server.tls.dns: unknown key; did you mean [server.tls.acme.dns]?"},
		"not a table's":         {"self_signed = \"yes\"\n", "server.tls.self_signed: must be true or false, not a string"},
		"a secret is none here": {"server_private_key_file = \"x\"\n", "server.tls.server_private_key_file: unknown key"},
	} {
		text := docker + "[server.tls]\n" + tt.text
		report := problemsOf(t, text)
		if tt.want == "" && report != "" || !strings.Contains(report, tt.want) {
			t.Errorf("%s: %s, want %s", name, report, tt.want)
		}
		if name != "all of it" {
			continue
		}
		for _, file := range []string{cert, key, otherCert} {
			if !slices.Contains(mustLoad(t, text).Files(), file) {
				t.Errorf("%s is not watched", file)
			}
		}
	}
}

// A pair that does not go together is named with its cause and the remedy.
func TestPairAdvice(t *testing.T) {
	cert, key := certificate(t)
	otherCert, otherKey := certificate(t)
	content := func(files ...string) (text string) {
		for _, file := range files {
			text += read(t, file)
		}
		return text
	}
	block, _ := pem.Decode([]byte(read(t, cert)))
	keyBlock, _ := pem.Decode([]byte(read(t, key)))
	old := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}, Bytes: []byte("x")})
	for name, tt := range map[string]struct{ cert, key, want string }{
		"good":                      {content(cert), content(key), ""},
		"with an authority":         {content(cert, otherCert), content(key), ""},
		"a key with parameters":     {content(cert), "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + content(key), ""},
		"swapped":                   {content(key), content(cert), "each names the file of the other. Swap them"},
		"the authority first":       {content(otherCert, cert), content(key), "the key is that of certificate 2 in the file. Write this one first"},
		"the server's own last":     {content(otherCert, otherCert, cert), content(key), "the key is that of certificate 3 in the file"},
		"another key":               {content(cert), content(otherKey), "the key belongs to another certificate. Name the key that this certificate was issued for"},
		"PKCS #8, encrypted":        {content(cert), "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n", "openssl pkey -in ENCRYPTED"},
		"encrypted as of old":       {content(cert), string(old), "the key is encrypted, and Weir has no passphrase"},
		"DER":                       {string(block.Bytes), content(key), "openssl x509 -inform der"},
		"a key in DER":              {content(cert), string(keyBlock.Bytes), "the key file contains no PEM key"},
		"the certificate twice":     {content(cert), content(cert), "the key file contains no PEM key"},
		"the key twice":             {content(key), content(key), "the certificate file contains no PEM certificate"},
		"a request":                 {strings.ReplaceAll(content(cert), "CERTIFICATE", "CERTIFICATE REQUEST"), content(key), "the certificate file contains no PEM certificate"},
		"an empty file":             {"", content(key), "the certificate file contains no PEM certificate"},
		"a certificate that is cut": {content(cert)[:100], content(key), "the file of the certificate has a truncated"},
		"a key that is cut":         {content(cert), content(key)[:100], "the file of the key has a truncated"},
	} {
		certFile, keyFile := write(t, "c.pem", tt.cert), write(t, "k.pem", tt.key)
		for at, lines := range map[string]string{
			"server.tls.server_certificate_bundle":                  docker + "[server.tls]\nserver_certificate_bundle = " + quote(certFile) + "\nserver_private_key = " + quote(keyFile) + "\n",
			`repository."docker.io".upstream[0].client_certificate`: docker + "client_certificate = " + quote(certFile) + "\nclient_private_key = " + quote(keyFile) + "\n",
		} {
			report := problemsOf(t, lines)
			if tt.want == "" && report != "" || tt.want != "" && (!strings.Contains(report, at+": does not go with ") || !strings.Contains(report, tt.want)) {
				t.Errorf("%s: %s, want %s", name, report, tt.want)
			}
		}
	}
}

// Turning TLS on or off needs a restart; all of its keys are live.
func TestServerTLSReload(t *testing.T) {
	cert, key := certificate(t)
	plain, own := mustLoad(t, docker), mustLoad(t, docker+"[server.tls]\nself_signed = true\n")
	files := mustLoad(t, docker+"[server.tls]\nhttp2 = true\nserver_certificate_bundle = "+quote(cert)+"\nserver_private_key = "+quote(key)+"\n")
	for _, tt := range []struct {
		old, new *Config
		want     []string
	}{{plain, own, []string{"server.tls"}}, {own, plain, []string{"server.tls"}}, {own, files, nil}, {plain, plain, nil}} {
		if got := RestartRequired(tt.old, tt.new); !slices.Equal(got, tt.want) {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

// A variable of the environment turns TLS on.
func TestServerTLSFromEnvironment(t *testing.T) {
	t.Setenv("WEIR_SERVER_TLS_SELF_SIGNED", "true")
	if c := mustLoad(t, docker); c.Server.TLS == nil || !c.Server.TLS.SelfSigned || c.Server.TLS.ClientAuth != ClientAuthOptional {
		t.Errorf("%+v", c.Server.TLS)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// An authority needs hosts, and exactly the keys of its challenge.
func TestServerACME(t *testing.T) {
	cert, key := certificate(t)
	const at, hosts = "server.tls.acme", "hosts = [\"mirror.example.com\"]\n"
	dns := func(lines string) string { return hosts + "challenge = \"dns-01\"\n[server.tls.acme.dns]\n" + lines }
	const signed = "provider = \"rfc2136\"\nserver = \"ns1.example.com\"\nzone = \"example.com.\"\ntsig_name = \"key.\"\ntsig_secret = \"c2VjcmV0\"\n"
	const account = "provider = \"acme-dns\"\nurl = \"https://auth.example.com\"\nusername = \"u\"\npassword = \"p\"\nsubdomain = \"s\"\n"
	for name, tt := range map[string]struct{ text, want string }{
		"hosts alone":         {hosts, ""},
		"http-01":             {hosts + "challenge = \"http-01\"\n", ""},
		"address":             {"hosts = [\"192.0.2.7\", \"2001:db8::7\"]\n", ""},
		"private authority":   {hosts + "directory_url = \"https://ca.internal:9000/acme/acme/directory\"\nca_bundle = " + quote(cert) + "\n", ""},
		"account":             {hosts + "eab_key_id = \"kid\"\neab_hmac_key = \"zWNDZM6eQGHW-_\"\n", ""},
		"rfc2136":             {dns(signed), ""},
		"rfc2136, port":       {dns(strings.Replace(signed, "ns1.example.com", "[2001:db8::53]:5353", 1)), ""},
		"rfc2136, IPv6":       {dns(strings.Replace(signed, "ns1.example.com", "2001:db8::53", 1)), ""},
		"acme-dns":            {dns(account), ""},
		"exec":                {dns("provider = \"exec\"\ncommand = [\"sh\", \"-c\"]\n"), ""},
		"wildcard":            {strings.Replace(dns(signed), "mirror.", "*.", 1), ""},
		"no hosts":            {"", at + ".hosts: must name the hosts"},
		"a URL":               {"hosts = [\"https://mirror.example.com\"]\n", at + ".hosts[0]: must be a host name"},
		"a port":              {"hosts = [\"mirror.example.com:443\"]\n", at + ".hosts[0]: must be a host name"},
		"an empty one":        {"hosts = [\"\"]\n", at + ".hosts[0]: must be a host name"},
		"capitals":            {"hosts = [\"Mirror.Example.COM\"]\n", ""},
		"twice":               {"hosts = [\"a.test\", \"A.test\"]\n", at + ".hosts[1]: is listed twice"},
		"wildcard, no DNS":    {"hosts = [\"*.example.com\"]\n", at + ".hosts[0]: is a wildcard"},
		"address by DNS":      {strings.Replace(dns(signed), "mirror.example.com", "192.0.2.7", 1), at + ".hosts[0]: is an address"},
		"plain HTTP":          {hosts + "directory_url = \"http://ca.internal/directory\"\n", at + ".directory_url: must be the https:// URL"},
		"another challenge":   {hosts + "challenge = \"dns\"\n", at + ".challenge: "},
		"port of the mirror":  {hosts + "challenge = \"http-01\"\nhttp_port = 8000\n", at + ".http_port: is server.port"},
		"port 0":              {hosts + "http_port = 0\n", at + ".http_port: must be between 1 and 65535"},
		"half an account":     {hosts + "eab_key_id = \"kid\"\n", at + ".eab_hmac_key: is missing"},
		"no base64url":        {hosts + "eab_key_id = \"kid\"\neab_hmac_key = \"a+b/\"\n", at + ".eab_hmac_key: is not base64url"},
		"bundle without any":  {hosts + "ca_bundle = " + quote(key) + "\n", at + ".ca_bundle: contains no PEM certificate"},
		"DNS in vain":         {hosts + "[server.tls.acme.dns]\n" + signed, at + ".dns: has no effect"},
		"DNS missing":         {hosts + "challenge = \"dns-01\"\n", at + ".dns: is missing"},
		"no provider":         {dns(""), at + ".dns.provider: "},
		"another provider":    {dns("provider = \"route53\"\n"), at + ".dns.provider: "},
		"key of another":      {dns(signed + "subdomain = \"s\"\n"), at + ".dns.subdomain: is for provider = \"acme-dns\""},
		"half a key":          {dns(strings.Replace(signed, "tsig_secret", "#", 1)), at + ".dns.tsig_secret: is missing"},
		"no base64":           {dns(strings.Replace(signed, "c2VjcmV0", "secret!", 1)), at + ".dns.tsig_secret: is not base64"},
		"weak algorithm":      {dns(signed + "tsig_algorithm = \"hmac-md5\"\n"), at + ".dns.tsig_algorithm: "},
		"server with a path":  {dns(strings.Replace(signed, "ns1.example.com", "ns1/x", 1)), at + ".dns.server: must be"},
		"no zone":             {dns(strings.Replace(signed, "zone", "#", 1)), at + ".dns.zone: is missing"},
		"URL with a password": {dns(strings.Replace(account, "https://", "https://u:p@", 1)), at + ".dns.url: must be a URL"},
		"no such program":     {dns("provider = \"exec\"\ncommand = [\"/none/hook\"]\n"), at + ".dns.command[0]: cannot be run"},
		"no command":          {dns("provider = \"exec\"\n"), at + ".dns.command: is missing"},
	} {
		report := problemsOf(t, docker+"[server.tls.acme]\n"+tt.text)
		if tt.want == "" && report != "" || !strings.Contains(report, tt.want) {
			t.Errorf("%s: %s, want %s", name, report, tt.want)
		}
	}
	for _, beside := range []string{"self_signed = true\n", "server_private_key = " + quote(key) + "\n"} {
		if report := problemsOf(t, docker+"[server.tls]\n"+beside+"[server.tls.acme]\n"+hosts); !strings.Contains(report, at+": cannot be combined with") {
			t.Errorf("%s: %s", beside, report)
		}
	}
}
