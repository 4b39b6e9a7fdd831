package config

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Draft is a repository block with one upstream, as people describe it on a page of the mirror. The
// people may not have the rights of the mirror. Therefore its texts stand for themselves: none of
// them names a file, a program or a variable of the environment.
type Draft struct {
	Key      string
	URL      string
	Username string
	Password Secret
	Default  bool

	// The operator decides about these parts, so no page writes a block that has one of them. A
	// trial has the certificates in memory.
	Helper      string // a credential helper: [ECRHelper], or none
	Authority   bool   // of the registry's certificate, in a file
	Certificate bool   // of the mirror, in files
}

// ECRHelper is the credential helper of Amazon ECR. A draft can name no other program, and this one
// for registries of ECR only: no other server may ask it for a password.
const ECRHelper = "ecr-login"

// ecrHost matches the host of a private registry of Amazon ECR, without a port.
var ecrHost = sync.OnceValue(func() *regexp.Regexp { // compiled if a page describes one
	return regexp.MustCompile(`^[0-9]{12}\.dkr\.ecr\.[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?\.amazonaws\.com(\.cn)?$`)
})

// errHelper refuses an address that is not one of Amazon ECR.
var errHelper = errors.New("must be the address of a private registry of Amazon ECR, such as https://123456789012.dkr.ecr.eu-central-1.amazonaws.com: the credential helper has passwords for no other")

// Bounds of the texts of a draft, in bytes. A password may be the key of a service account.
const (
	MaxDraftKey      = 128
	MaxDraftURL      = 1024
	MaxDraftUsername = 256
	MaxDraftPassword = 8 << 10
)

// maxFileName bounds the name of the file of a draft, in bytes. Filesystems allow 255, and the file is written
// under a longer name first.
const maxFileName = 200

// ByHand reports whether only the operator can write the block of the draft.
func (d Draft) ByHand() bool { return d.Helper != "" || d.Authority || d.Certificate }

// Check returns the problems of the texts of a draft that no value in a file could have, and nil if
// there are none.
func (d Draft) Check() error {
	var problems Problems
	for _, field := range []struct {
		key, text string
		longest   int
		literal   bool // ${ is part of the text
	}{
		{d.at(), d.Key, MaxDraftKey, false},
		{d.at() + ".upstream[0].url", d.URL, MaxDraftURL, false},
		{d.at() + ".upstream[0].username", d.Username, MaxDraftUsername, false},
		{d.at() + ".upstream[0].password", d.Password.Reveal(), MaxDraftPassword, true},
	} {
		var err error
		switch {
		case len(field.text) > field.longest:
			err = fmt.Errorf("must have at most %d bytes", field.longest)
		case !utf8.ValidString(field.text):
			err = errors.New("must be UTF-8 text")
		case strings.ContainsFunc(field.text, unicode.IsControl):
			err = errors.New("must be one line without control characters")
		case !field.literal && strings.ContainsFunc(field.text, func(r rune) bool { return unicode.Is(unicode.Cf, r) }):
			err = errors.New("must not contain invisible characters")
		case !field.literal && strings.Contains(field.text, "${"):
			err = errors.New("must not contain ${, which would refer to an environment variable")
		}
		if err != nil {
			problems = append(problems, &Problem{Key: field.key, Err: err})
		}
	}
	if len(d.FileName()) > maxFileName {
		problems = append(problems, &Problem{Key: d.at(), Err: fmt.Errorf("is too long for the name of a file, %s", d.FileName())})
	}
	if err := d.checkHelper(); err != nil {
		problems = append(problems, &Problem{Key: d.at() + ".upstream[0].url", Err: err})
	}
	return problems.err()
}

// checkHelper returns an error unless the helper of a draft is that of its registry.
func (d Draft) checkHelper() error {
	if d.Helper == "" {
		return nil
	}
	at, err := url.Parse(d.URL)
	if err != nil || d.Helper != ECRHelper || at.Scheme != "https" || !ecrHost().MatchString(at.Host) {
		return errHelper
	}
	return nil
}

// at returns the key path of the block.
func (d Draft) at() string { return keyIn("repository", d.Key) }

// Load returns a configuration that has the block of the draft alone, without the files of its
// certificates. The error is a [Problems]: those of [Draft.Check], or those that the block would have in
// a file.
func (d Draft) Load(allowPrivate bool) (*Config, error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	document, problem := parseDocument("", d.document())
	if problem != nil {
		return nil, Problems{problem}
	}
	c, problems := decode(document)
	if len(problems) == 0 {
		problems = c.validate()
	}
	for i := range c.Namespaces {
		c.Namespaces[i].confine(allowPrivate)
	}
	if err := problems.sorted(nil).err(); err != nil {
		return nil, err
	}
	return c, nil
}

// confine bounds where the upstreams of a block of a page may be: at public addresses, and at
// private ones if the operator allows it.
func (n *Namespace) confine(allowPrivate bool) {
	reach := ReachPublic
	if allowPrivate {
		reach = ReachNear
	}
	for i := range n.Upstreams {
		n.Upstreams[i].Reach = reach
	}
}

// FileName returns the name of the file that a page writes the block to. Different keys have
// different names.
func (d Draft) FileName() string { return "registry-" + url.PathEscape(d.Key) + ".toml" }

// File returns the content of that file, with the password.
func (d Draft) File() string {
	return "# The page \"Add a registry\" wrote this file. Edit or remove it like any other file.\n\n" + d.document()
}

// parseFile returns the draft whose file has a text. It reports false if that is the file of no draft:
// another program has written or changed it.
func parseFile(file, text string) (d Draft, intact bool) {
	document, problem := parseDocument(file, text)
	if problem != nil {
		return Draft{}, false
	}
	blocks, _ := child(document, "repository").get()
	for key, block := range blocks {
		d.Key = key
		list, _ := child(block, "upstream").elements()
		if len(list) != 1 {
			return Draft{}, false
		}
		d.URL, d.Username, d.Password = textIn(list[0], "url"), textIn(list[0], "username"), Secret(textIn(list[0], "password"))
		if n := child(block, "default"); n != nil {
			d.Default, _ = n.value.(bool)
		}
	}
	return d, len(blocks) == 1 && filepath.Base(file) == d.FileName() && text == d.File()
}

// elements returns the list that a node is.
func (n *node) elements() ([]*node, bool) {
	if n == nil {
		return nil, false
	}
	list, ok := n.value.([]*node)
	return list, ok
}

// textIn returns a text of a table that names no variable; "" if there is none.
func textIn(n *node, name string) string {
	of := child(n, name)
	if of == nil {
		return ""
	}
	text, _ := of.value.(string)
	if strings.Contains(strings.ReplaceAll(text, "$$", ""), "${") {
		return ""
	}
	expanded, err := expand(text)
	if err != nil {
		return ""
	}
	return expanded
}

// document returns the block as a file has it, with the password.
func (d Draft) document() string {
	var b strings.Builder
	d.begin(&b)
	if d.Password != "" {
		line(&b, "password", d.Password.Reveal())
	}
	if d.Helper != "" {
		line(&b, "credential_helper", d.Helper)
	}
	return b.String()
}

// Text returns the block for people to paste into a file. It names a file in place of the password,
// and other files that the operator has to write.
func (d Draft) Text() string {
	var b strings.Builder
	d.begin(&b)
	side := "/etc/weir/" + strings.NewReplacer("/", "_", ":", "_").Replace(d.Key)
	if d.Username != "" {
		b.WriteString("# Write the password into this file, which only Weir may read.\n")
		line(&b, "password_file", side+".password")
	}
	if d.Helper != "" {
		b.WriteString("# The program docker-credential-" + d.Helper + " must be in the PATH of Weir.\n")
		line(&b, "credential_helper", d.Helper)
	}
	if d.Authority {
		b.WriteString("# Write the certificate of the registry's authority into this file, in PEM form.\n")
		line(&b, "server_ca_bundle", side+".ca.crt")
	}
	if d.Certificate {
		b.WriteString("# Write the certificate that Weir presents to the registry, and its key, into these files. Weir alone may read the key.\n")
		line(&b, "client_certificate", side+".crt")
		line(&b, "client_private_key", side+".key")
	}
	return b.String()
}

// Paste returns the block of a draft for people to paste into a file of this configuration. If the
// built-in blocks are in force, it holds the others of them too: the first block in a file ends them.
func (c *Config) Paste(d Draft) string {
	var b strings.Builder
	if at, known := c.source.positions[d.at()]; known && at.file != "" {
		b.WriteString("# The mirror has a block of this name. Write these lines in its place.\n")
	}
	b.WriteString(d.Text())
	if c.HasRepositories() {
		return b.String()
	}
	begun := false
	for _, n := range c.Namespaces {
		if n.Key == d.Key || !c.IsBuiltIn(n.Key) || len(n.Upstreams) != 1 {
			continue
		}
		if !begun {
			b.WriteString("\n# The built-in blocks. They no longer apply once a file has a block, so keep those that you use.\n")
			begun = true
		}
		Draft{Key: n.Key, URL: n.Upstreams[0].URL.String(), Default: n.Default && !d.Default}.begin(&b)
	}
	return b.String()
}

// IsBuiltIn reports whether a block is one of those that are in force without a file.
func (c *Config) IsBuiltIn(key string) bool {
	at, known := c.source.positions[keyIn("repository", key)]
	return known && at.file == ""
}

func (d Draft) begin(b *strings.Builder) {
	b.WriteString("[" + d.at() + "]\n")
	if d.Default {
		b.WriteString("default = true\n")
	}
	b.WriteString("\n[[" + d.at() + ".upstream]]\n")
	line(b, "url", d.URL)
	if d.Username != "" {
		line(b, "username", d.Username)
	}
}

func line(b *strings.Builder, name, value string) { b.WriteString(name + " = " + quote(value) + "\n") }
