package config

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
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

	// The operator completes these parts of [Draft.Text] by hand. A draft that has one of them
	// cannot be loaded.
	Helper      string // a constant of the page
	Authority   bool   // of the registry's certificate, in a file
	Certificate bool   // of the mirror, in files
}

// Bounds of the texts of a draft, in bytes. A password may be the key of a service account.
const (
	MaxDraftKey      = 128
	MaxDraftURL      = 1024
	MaxDraftUsername = 256
	MaxDraftPassword = 8 << 10
)

// ByHand reports whether the operator has to complete the draft.
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
			err = fmt.Errorf("must have %d bytes at most", field.longest)
		case !utf8.ValidString(field.text):
			err = errors.New("must be UTF-8 text")
		case strings.ContainsFunc(field.text, unicode.IsControl):
			err = errors.New("must be one line without control characters")
		case !field.literal && strings.ContainsFunc(field.text, func(r rune) bool { return unicode.Is(unicode.Cf, r) }):
			err = errors.New("must not hold characters that cannot be seen")
		case !field.literal && strings.Contains(field.text, "${"):
			err = errors.New("must not name variables of the environment")
		}
		if err != nil {
			problems = append(problems, &Problem{Key: field.key, Err: err})
		}
	}
	return problems.err()
}

// at returns the key path of the block.
func (d Draft) at() string { return keyIn("repository", d.Key) }

// Load returns a configuration that has the block of the draft alone. The error is a [Problems]: those
// of [Draft.Check], or those that the block would have in a file.
func (d Draft) Load(allowPrivate bool) (*Config, error) {
	if d.ByHand() {
		return nil, Problems{{Err: errors.New("the block names files or programs, and these are completed by hand")}}
	}
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
	return "# The page \"Add a registry\" has written this file. Edit or remove it as any other one.\n\n" + d.document()
}

// document returns the block as a file has it, with the password.
func (d Draft) document() string {
	var b strings.Builder
	d.begin(&b)
	if d.Password != "" {
		line(&b, "password", d.Password.Reveal())
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
		b.WriteString("# Write the password into this file, which Weir alone may read.\n")
		line(&b, "password_file", side+".password")
	}
	if d.Helper != "" {
		b.WriteString("# The program docker-credential-" + d.Helper + " must be installed where Weir runs.\n")
		line(&b, "credential_helper", d.Helper)
	}
	if d.Authority {
		b.WriteString("# The certificate of the registry's authority, in PEM form.\n")
		line(&b, "server_ca_bundle", side+".ca.crt")
	}
	if d.Certificate {
		b.WriteString("# The certificate that Weir shows to the registry, and its key.\n")
		line(&b, "client_certificate", side+".crt")
		line(&b, "client_private_key", side+".key")
	}
	return b.String()
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
