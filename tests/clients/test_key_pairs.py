"""Key pairs, checked with ssh-keygen and openssl: what is made can be used, what is shown is true."""

import base64
import hashlib
import shutil
import subprocess

import pytest
from asking import filtered, refusal, waiter


def run(*command, **arguments):
    return subprocess.run(command, check=True, capture_output=True, **arguments).stdout


@pytest.fixture
def keep(tmp_path):
    """Writes a private key as ssh wants it."""

    def keep(material, name="key"):
        path = tmp_path / name
        path.write_text(material)
        path.chmod(0o600)
        return str(path)

    return keep


@pytest.fixture
def own(tmp_path):
    """Makes a key of one's own; gives its path and its public line."""

    def own(kind, *options):
        path = tmp_path / f"own-{kind}"
        run("ssh-keygen", "-q", "-t", kind, *options, "-N", "", "-C", "me@here", "-f", str(path))
        return str(path), (tmp_path / f"own-{kind}.pub").read_text().strip()

    return own


def colons(digest):
    return ":".join(f"{byte:02x}" for byte in digest)


def public_of(ec2, name):
    (pair,) = ec2.describe_key_pairs(KeyNames=[name], IncludePublicKey=True)["KeyPairs"]
    return pair["PublicKey"].split()[:2]


class TestCreated:
    def test_rsa_pem(self, ec2, keep):
        pair = ec2.create_key_pair(KeyName="lesson")
        assert pair["KeyName"] == "lesson" and pair["KeyPairId"].startswith("key-")
        assert pair["KeyMaterial"].startswith("-----BEGIN RSA PRIVATE KEY-----")
        path = keep(pair["KeyMaterial"])
        assert run("ssh-keygen", "-y", "-f", path).decode().split()[:2] == public_of(ec2, "lesson")
        bits = run("openssl", "rsa", "-in", path, "-noout", "-text").decode().splitlines()[0]
        assert "2048 bit" in bits
        # SHA-1 of the private key's PKCS #8 form, as the EC2 User Guide says to verify it.
        der = run("openssl", "pkcs8", "-in", path, "-inform", "PEM", "-outform", "DER", "-topk8", "-nocrypt")
        assert pair["KeyFingerprint"] == colons(hashlib.sha1(der).digest())
        waiter(ec2, "key_pair_exists", KeyNames=["lesson"])

    def test_ed25519_pem(self, ec2, keep):
        pair = ec2.create_key_pair(KeyName="edwards", KeyType="ed25519")
        assert pair["KeyMaterial"].startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
        path = keep(pair["KeyMaterial"])
        public = run("ssh-keygen", "-y", "-f", path).decode()
        assert public.split()[:2] == public_of(ec2, "edwards")
        printed = run("ssh-keygen", "-l", "-E", "sha256", "-f", path).decode().split()[1]
        assert pair["KeyFingerprint"].rstrip("=") == printed.removeprefix("SHA256:")

    @pytest.mark.parametrize("kind", ["rsa", "ed25519"])
    def test_ppk(self, ec2, keep, kind):
        pair = ec2.create_key_pair(KeyName="putty", KeyType=kind, KeyFormat="ppk")
        assert pair["KeyMaterial"].startswith("PuTTY-User-Key-File-")
        if shutil.which("puttygen") is None:
            pytest.skip("puttygen is not installed")
        path = keep(pair["KeyMaterial"], "key.ppk")
        assert run("puttygen", path, "-O", "public-openssh").decode().split()[:2] == public_of(ec2, "putty")
        opened = run("puttygen", path, "-O", "private-openssh", "-o", "/dev/stdout").decode()
        assert run("ssh-keygen", "-y", "-f", keep(opened, "opened")).decode().split()[:2] == public_of(ec2, "putty")

    def test_the_private_key_is_told_once(self, ec2):
        ec2.create_key_pair(KeyName="once")
        (shown,) = ec2.describe_key_pairs()["KeyPairs"]
        assert "KeyMaterial" not in shown and "PublicKey" not in shown
        assert shown["KeyType"] == "rsa" and "CreateTime" in shown

    def test_every_one_is_another(self, ec2):
        made = [ec2.create_key_pair(KeyName=f"k{n}", KeyType="ed25519") for n in range(5)]
        assert len({pair["KeyFingerprint"] for pair in made}) == 5

    def test_dry_run_makes_none(self, ec2):
        assert refusal(ec2.create_key_pair, KeyName="dry", DryRun=True)[0] == "DryRunOperation"
        assert ec2.describe_key_pairs()["KeyPairs"] == []


class TestImported:
    def test_rsa(self, ec2, own):
        path, line = own("rsa", "-b", "2048", "-m", "PEM")
        pair = ec2.import_key_pair(KeyName="mine", PublicKeyMaterial=line)
        der = run("openssl", "rsa", "-in", path, "-pubout", "-outform", "DER")
        assert pair["KeyFingerprint"] == colons(hashlib.md5(der).digest())
        assert public_of(ec2, "mine") == line.split()[:2]

    def test_ed25519(self, ec2, own):
        path, line = own("ed25519")
        pair = ec2.import_key_pair(KeyName="mine", PublicKeyMaterial=line)
        printed = run("ssh-keygen", "-l", "-E", "sha256", "-f", path).decode().split()[1]
        assert pair["KeyFingerprint"].rstrip("=") == printed.removeprefix("SHA256:")

    def test_other_forms(self, ec2, own):
        path, line = own("rsa", "-b", "2048", "-m", "PEM")
        expected = ec2.import_key_pair(KeyName="line", PublicKeyMaterial=line)["KeyFingerprint"]
        rfc4716 = run("ssh-keygen", "-e", "-m", "RFC4716", "-f", path)
        assert ec2.import_key_pair(KeyName="rfc", PublicKeyMaterial=rfc4716)["KeyFingerprint"] == expected
        der = run("openssl", "rsa", "-in", path, "-pubout", "-outform", "DER")
        assert ec2.import_key_pair(KeyName="der", PublicKeyMaterial=base64.b64encode(der))["KeyFingerprint"] == expected

    @pytest.mark.parametrize("material", ["nonsense", "ssh-rsa AAAA", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA=="])
    def test_bad(self, ec2, material):
        code, message, status = refusal(ec2.import_key_pair, KeyName="bad", PublicKeyMaterial=material)
        assert (code, status) == ("InvalidKey.Format", 400)
        assert "valid OpenSSH public key format" in message

    def test_dsa_and_ecdsa_are_refused(self, ec2, own):
        _, line = own("ecdsa")
        assert refusal(ec2.import_key_pair, KeyName="bad", PublicKeyMaterial=line)[0] == "InvalidKey.Format"


class TestNames:
    def test_duplicate(self, ec2):
        ec2.create_key_pair(KeyName="twice", KeyType="ed25519")
        code, message, status = refusal(ec2.create_key_pair, KeyName="twice")
        assert (code, status) == ("InvalidKeyPair.Duplicate", 400)
        assert message == "The keypair already exists"

    @pytest.mark.parametrize("name", ["x" * 256, "", " lead", "snow☃"])
    def test_bad(self, ec2, name):
        code, _, status = refusal(ec2.create_key_pair, KeyName=name, KeyType="ed25519")
        assert status == 400 and code in ("InvalidParameterValue", "MissingParameter")

    def test_unknown(self, ec2):
        code, message, _ = refusal(ec2.describe_key_pairs, KeyNames=["ghost"])
        assert (code, message) == ("InvalidKeyPair.NotFound", "The key pair 'ghost' does not exist")
        assert refusal(ec2.describe_key_pairs, KeyPairIds=["key-0123456789abcdef0"])[0] == "InvalidKeyPair.NotFound"

    def test_bad_kind(self, ec2):
        assert refusal(ec2.create_key_pair, KeyName="x", KeyType="dsa")[0] == "InvalidParameterValue"
        assert refusal(ec2.create_key_pair, KeyName="x", KeyFormat="der")[0] == "InvalidParameterValue"
        assert ec2.describe_key_pairs()["KeyPairs"] == []


def test_delete(ec2):
    first = ec2.create_key_pair(KeyName="first", KeyType="ed25519")
    ec2.create_key_pair(KeyName="second", KeyType="ed25519")
    assert ec2.delete_key_pair(KeyPairId=first["KeyPairId"])["Return"] is True
    ec2.delete_key_pair(KeyName="second")
    # Deleting what is not there succeeds.
    ec2.delete_key_pair(KeyName="second")
    assert ec2.describe_key_pairs()["KeyPairs"] == []


def test_filters_and_tags(ec2):
    tags = [{"ResourceType": "key-pair", "Tags": [{"Key": "team", "Value": "blue"}]}]
    pair = ec2.create_key_pair(KeyName="tagged", KeyType="ed25519", TagSpecifications=tags)
    ec2.create_key_pair(KeyName="plain", KeyType="ed25519")
    assert pair["Tags"] == [{"Key": "team", "Value": "blue"}]
    for name, value in {
        "key-name": "tag*",
        "key-pair-id": pair["KeyPairId"],
        "fingerprint": pair["KeyFingerprint"],
        "tag:team": "blue",
        "tag-key": "team",
    }.items():
        found = ec2.describe_key_pairs(Filters=[{"Name": name, "Values": [value]}])["KeyPairs"]
        assert [k["KeyName"] for k in found] == ["tagged"], name
    assert ec2.describe_key_pairs(Filters=filtered(key_name="nothing"))["KeyPairs"] == []
