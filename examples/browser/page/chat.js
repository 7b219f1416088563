// The conversation with the model that is trained.
import { $, item } from './common.js';

const MOST_TOKENS = 256;
const TOP_P = 0.95;

export class Chat {
  constructor(asked, failed) {
    Object.assign(this, { asked, failed, messages: [], count: 0, current: null });
    $('tune-chat-form').onsubmit = (submit) => {
      submit.preventDefault();
      this.send();
    };
    $('tune-message').onkeydown = (key) => {
      if (key.key !== 'Enter' || key.shiftKey || key.isComposing) return;
      key.preventDefault();
      if (!this.current) $('tune-chat-form').requestSubmit();
    };
    $('tune-chat-stop').onclick = () => asked.tell('stopAnswer');
    $('tune-chat-clear').onclick = () => this.clear();
    $('tune-temperature').oninput = () => ($('tune-temperature-value').textContent = $('tune-temperature').value);
    this.buttons();
  }

  clear() {
    if (this.current) this.asked.tell('stopAnswer');
    this.current = null;
    this.messages = [];
    $('tune-chat').replaceChildren();
    this.buttons();
  }

  buttons() {
    $('tune-send').disabled = this.current !== null;
    $('tune-chat-stop').disabled = this.current === null;
  }

  async send() {
    const content = $('tune-message').value.trim();
    if (!content || this.current) return;
    $('tune-message').value = '';
    this.count += 1;
    const adapted = $('tune-adapted').checked;
    const entry = item('li', '', 'assistant waiting');
    $('tune-chat').append(item('li', content, 'user'), entry);
    this.scroll(true);
    this.messages.push({ role: 'user', content });
    this.current = { id: this.count, text: '', entry, adapted };
    this.buttons();
    const options = { temperature: Number($('tune-temperature').value), topP: TOP_P, maxTokens: MOST_TOKENS, seed: this.count, adapted };
    try {
      await this.asked.ask('chat', { answer: this.count, messages: this.messages, options });
    } catch (error) {
      this.end({ error });
    }
  }

  /** A piece of an answer has come. */
  said({ id, text, done, error }) {
    if (this.current?.id !== id) return;
    const before = this.isAtEnd();
    this.current.text += text;
    this.current.entry.textContent = this.current.text;
    this.scroll(before);
    if (done) this.end({ error });
  }

  end({ error }) {
    const { text, entry, adapted } = this.current;
    const atEnd = this.isAtEnd();
    this.current = null;
    entry.classList.remove('waiting');
    if (text) {
      this.messages.push({ role: 'assistant', content: text });
      if (!adapted) entry.append(item('small', 'without what it learned'));
    } else {
      // What had no answer is asked again, or never was.
      entry.textContent = '';
      entry.append(item('small', error ? 'no answer' : 'an empty answer'));
      this.messages.pop();
    }
    this.scroll(atEnd);
    if (error && error.name !== 'DeviceLost') this.failed(error);
    this.buttons();
  }

  isAtEnd() {
    const log = $('tune-chat');
    return log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  }

  scroll(toEnd) {
    if (toEnd) $('tune-chat').scrollTop = $('tune-chat').scrollHeight;
  }
}
